"""CuPy: arrays on an NVIDIA GPU, times from CUDA events. Imported only when it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from backends.arrays import Array, Backend, Launch
from backends.kernels import FOLDER, source_of
from workloads.errors import InputError

FLUSHED = 512 << 20
"""Bytes written before every timed call: several times any L2 cache, some 200 microseconds."""


class CupyBackend(Backend):
    """The current CUDA device. Raises `InputError` saying what is missing where there is none."""

    name = "cupy"
    has_kernels = True

    def __init__(self) -> None:
        self.xp = cupy_or_refusal()
        self._stream = self.xp.cuda.get_current_stream()
        self._flush: Any = None
        self.processors = int(self._properties["multiProcessorCount"])

    def on_host(self, array: Array) -> Any:
        """A copy of ``array`` on the host; waits for it."""
        return self.xp.asnumpy(array)

    def host_buffer(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Pinned memory, which alone can be copied asynchronously."""
        return import_module("cupyx").empty_pinned(shape, dtype)

    def to_host(self, array: Array, buffer: Any) -> None:
        """An asynchronous copy on the current stream."""
        array.get(stream=self._stream, out=buffer, blocking=False)

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self._stream.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Between two events around ``work`` on the current stream.

        A large buffer is overwritten first: that empties the L2 cache, and while it lasts the
        host gets ahead of the device, so that its launches are not part of the time.
        """
        if self._flush is None:
            self._flush = self.xp.empty(FLUSHED, self.xp.uint8)
        self._flush.fill(0)
        start, end = self.xp.cuda.Event(), self.xp.cuda.Event()
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return float(self.xp.cuda.get_elapsed_time(start, end)) / 1e3

    def device_name(self) -> str:
        """The GPU's name as the driver tells it."""
        return str(self._properties["name"].decode())

    def kernel(self, file: str, name: str, defines: Mapping[str, object]) -> Launch:
        """Compiled by NVRTC at its first use, and kept."""
        launch: Launch = _module(self.xp, file, tuple(defines.items())).get_function(name)
        return launch

    def versions(self) -> dict[str, str]:
        """CuPy, the CUDA runtime and the driver."""
        runtime = self.xp.cuda.runtime
        return {
            "cupy": str(self.xp.__version__),
            "cuda": str(runtime.runtimeGetVersion()),
            "driver": str(runtime.driverGetVersion()),
        }

    def clocks(self) -> dict[str, Any]:
        """Peak clocks of the device in kHz; what they were during a point shows in its spread."""
        properties = self._properties
        return {
            name: properties[name]
            for name in ("clockRate", "memoryClockRate")
            if name in properties
        }

    @property
    def _properties(self) -> Any:
        return self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)


@cache
def _module(cupy: Any, file: str, defines: tuple[tuple[str, object], ...]) -> Any:
    options = ["-std=c++17", f"-I{FOLDER}", *(f"-D{name}={value}" for name, value in defines)]
    # CuPy keeps what it compiled by source and options; a changed header must count too.
    header = hashlib.sha256(source_of("numbers.cuh").encode()).hexdigest()
    options.append(f"-DHEADER_{header[:16]}")
    return cupy.RawModule(code=source_of(file), options=tuple(options))


def cupy_or_refusal() -> Any:
    """The module ``cupy``; `InputError` in one line where it or a GPU is missing."""
    try:
        import cupy
    except ImportError:
        raise InputError(
            "backend 'cupy': CuPy is not installed (pip install 'kvlab[gpu]')"
        ) from None
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"backend 'cupy': no usable NVIDIA GPU or driver ({reason})") from None
    if not devices:
        raise InputError("backend 'cupy': no NVIDIA GPU")
    return cupy
