"""Where arrays live: NumPy on the CPU or CuPy on an NVIDIA GPU, behind one face.

Code of this package is written once against the array module ``xp``; what the two differ in
(clocks, host memory, kernels of our own) is asked of the `Backend`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""An array of either module: NumPy's and CuPy's have no common type."""

Launch: TypeAlias = Callable[[tuple[int, ...], tuple[int, ...], tuple[Any, ...]], None]
"""Starts a kernel: blocks of the grid, threads of a block, arguments (arrays, NumPy scalars)."""


class Backend:
    """NumPy: arrays on the host, wall-clock times.

    name: as on the command line. xp: the array module. has_kernels: whether `kernel` offers the
    CUDA kernels of `backends.kernels`. processors: multiprocessors of the device. matrix_type: of
    the matrix products that are measured: what the device has units for.
    """

    name = "numpy"
    has_kernels = False
    processors = 1
    matrix_type = "float32"

    def __init__(self) -> None:
        self.xp: Any = np

    def on_device(self, array: Array) -> Array:
        """``array`` as an array of ``xp``; copied only where it is not one already."""
        return self.xp.asarray(array)

    def on_host(self, array: Array) -> Any:
        """``array`` as a NumPy array."""
        return np.asarray(array)

    def host_buffer(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Uninitialised host memory that the device can copy from and to without waiting."""
        return np.empty(shape, dtype)

    def to_host(self, array: Array, buffer: Any) -> None:
        """Start to copy ``array`` into the host ``buffer``; over after `synchronize`."""
        np.copyto(buffer, array)

    def from_host(self, buffer: Any) -> Array:
        """Start to copy a host buffer to the device; whoever works with the result waits for it.

        The buffer may be given up at once, but not written before `synchronize`.
        """
        return buffer

    def synchronize(self) -> None:
        """Wait until all work that was started is done."""

    def seconds(self, work: Callable[[], object]) -> float:
        """How long the device takes for ``work``, in seconds."""
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def kernel(self, file: str, name: str, defines: Mapping[str, object]) -> Launch:
        """A kernel of a file of `backends.kernels`, compiled with these definitions."""
        raise NotImplementedError(f"{self.name} runs no CUDA kernels")

    def kernel_attributes(self) -> dict[str, Any]:
        """What the driver says of the kernels used so far: registers, shared and local memory."""
        return {}

    def device_name(self) -> str:
        """What the arrays live on, as its maker calls it."""
        return _cpu_name()

    def versions(self) -> dict[str, str]:
        """Versions of what the times depend on."""
        return {"numpy": np.__version__}

    def clocks(self) -> dict[str, Any]:
        """The state of the device's clocks, as far as it can be asked.

        Of a CPU: the processors that there are, and how many were wanted in the last five minutes.
        """
        return {"processors": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[1], 1)}


def _cpu_name() -> str:
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
