"""The backend of a GPU, line for line, on a CPU: its kernels compiled by a C++ compiler.

Arrays are `backends.emulation.device`'s, the module is `backends.emulation.cupy`, all else is
`CupyBackend`'s own. So what runs on a GPU runs here too, slowly, and a slip of the pen does not
wait for somebody who has one.
"""

from __future__ import annotations

import shutil
from typing import Any

from backends.cupy_backend import CupyBackend
from backends.emulation import cupy
from workloads.errors import InputError


class EmulatedBackend(CupyBackend):
    """`CupyBackend` without a GPU. Raises `InputError` where there is no C++ compiler."""

    name = "emulated"

    def _modules(self) -> tuple[Any, Any]:
        """The emulated ones."""
        if shutil.which("g++") is None:
            raise InputError("backend 'emulated': no C++ compiler (g++)")
        return cupy, cupy
