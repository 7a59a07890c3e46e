"""Backends by name; CuPy and the emulator are imported where they are asked for."""

from __future__ import annotations

from backends.arrays import Backend
from workloads.errors import InputError
from workloads.registry import suggestion_for

BACKENDS = ("numpy", "cupy", "emulated")


def backend_of(name: str) -> Backend:
    """The backend called ``numpy``, ``cupy`` or ``emulated`` (CUDA kernels on the CPU).

    Raises `InputError` for another name, and where CuPy, a GPU or a compiler is missing.
    """
    if name == "numpy":
        return Backend()
    if name == "emulated":
        from backends.emulation.backend import EmulatedBackend

        return EmulatedBackend()
    if name == "cupy":
        from backends.cupy_backend import CupyBackend

        return CupyBackend()
    raise InputError(f"unknown backend {name!r}; {suggestion_for(name, BACKENDS)}")
