"""CuPy: arrays on an NVIDIA GPU, times from CUDA events. Imported only when it is asked for."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from backends.arrays import Array, Backend, Launch
from backends.kernels import FOLDER, source_of
from workloads.errors import InputError

FLUSHED = 512 << 20
"""Bytes of a buffer that is several times as large as any L2 cache; a multiple of 8."""
LEADS = (1, 4, 16)
"""How often that buffer is overwritten before a timed call; each takes some 200 microseconds."""
ATTRIBUTES = ("num_regs", "shared_size_bytes", "local_size_bytes")
PEAKS = ("cudaDevAttrClockRate", "cudaDevAttrMemoryClockRate")
"""Attributes of the device, in kHz."""
CLOCKS = (
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("power.draw", "driver_version"),
)
"""What ``nvidia-smi`` is asked; it says the units itself."""


class CupyBackend(Backend):
    """The current CUDA device. Raises `InputError` saying what is missing where there is none."""

    name = "cupy"
    has_kernels = True
    matrix_type = "float16"

    def __init__(self) -> None:
        self.xp, self._cupyx = self._modules()
        self._stream = self.xp.cuda.get_current_stream()
        self._flush: Any = None
        self._kernels: dict[str, Any] = {}
        self._sent: deque[tuple[Any, Any]] = deque()
        self.processors = int(self._properties["multiProcessorCount"])

    def _modules(self) -> tuple[Any, Any]:
        """``cupy`` and ``cupyx``."""
        return cupy_or_refusal(), import_module("cupyx")

    def on_host(self, array: Array) -> Any:
        """A copy of ``array`` on the host; waits for it."""
        return self.xp.asnumpy(array)

    def host_buffer(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Pinned memory, which alone can be copied asynchronously."""
        return self._cupyx.empty_pinned(shape, dtype)

    def to_host(self, array: Array, buffer: Any) -> None:
        """An asynchronous copy on the current stream."""
        array.get(stream=self._stream, out=buffer, blocking=False)

    def from_host(self, buffer: Any) -> Array:
        """An asynchronous copy on the current stream, so behind a `to_host` of the same buffer.

        The buffer is kept until it has been read: its memory would be given to others before.
        """
        array = self.xp.empty(buffer.shape, buffer.dtype)
        array.set(buffer, stream=self._stream)
        read = self.xp.cuda.Event()
        read.record(self._stream)
        self._sent.append((read, buffer))
        while self._sent and self._sent[0][0].done:
            self._sent.popleft()
        return array

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self._stream.synchronize()
        self._sent.clear()

    def seconds(self, work: Callable[[], object]) -> float:
        """Between two events around ``work`` on the current stream.

        A large buffer is overwritten first: while that lasts the host gets ahead of the device, so
        that its launches are not part of the time. Where the host was not ahead to the end, it is
        all done again with a longer lead. Work that waits for the device itself stays late, and
        its waiting counts. Then the buffer is read: that empties the L2 cache, and leaves nothing
        in it that would have to be written back while the work is timed.
        """
        if self._flush is None:
            self._flush = self.xp.empty(FLUSHED // 8, self.xp.uint64)
        for lead in LEADS:
            start, end = self.xp.cuda.Event(), self.xp.cuda.Event()
            for _ in range(lead):
                self._flush.fill(0)
            self._flush.max()
            start.record(self._stream)
            work()
            is_late = start.done
            end.record(self._stream)
            end.synchronize()
            if not is_late:
                break
        return float(self.xp.cuda.get_elapsed_time(start, end)) / 1e3

    def device_name(self) -> str:
        """The GPU's name as the driver tells it."""
        return str(self._properties["name"].decode())

    def kernel(self, file: str, name: str, defines: Mapping[str, object]) -> Launch:
        """Compiled by NVRTC at its first use, and kept."""
        options = tuple(defines.items())
        kernel = _kernel(self.xp, file, name, options)
        self._kernels[" ".join([name, *(f"{key}={value}" for key, value in options)])] = kernel
        return kernel

    def kernel_attributes(self) -> dict[str, Any]:
        """As CuPy hands them on; bytes of local memory are spilled registers."""
        return {
            name: {key: kernel.attributes[key] for key in ATTRIBUTES}
            for name, kernel in self._kernels.items()
        }

    def versions(self) -> dict[str, str]:
        """CuPy, the CUDA runtime and the driver's CUDA version."""
        runtime = self.xp.cuda.runtime
        return {
            "cupy": str(self.xp.__version__),
            "cuda": str(runtime.runtimeGetVersion()),
            "driver": str(runtime.driverGetVersion()),
        }

    def clocks(self) -> dict[str, Any]:
        """What ``nvidia-smi`` says of clocks and power now, or the peak clocks (kHz) without it.

        What the clocks were during a point shows in its spread.
        """
        runtime, device = self.xp.cuda.runtime, self.xp.cuda.Device().id
        peak = {
            name: runtime.deviceGetAttribute(getattr(runtime, name), device)
            for name in PEAKS
            if hasattr(runtime, name)  # they come and go with the version of CUDA
        }
        return peak | _said_by_nvidia_smi(device)

    @property
    def _properties(self) -> Any:
        return self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)


@cache
def _kernel(cupy: Any, file: str, name: str, defines: tuple[tuple[str, object], ...]) -> Launch:
    kernel = _module(cupy, file, defines).get_function(name)
    if file == "decode.cu" and name == "decode":
        # What its blocks take of shared memory bounds how many a multiprocessor holds at once.
        kernel.preferred_shared_memory_carveout = 100
    launch: Launch = kernel
    return launch


@cache
def _module(cupy: Any, file: str, defines: tuple[tuple[str, object], ...]) -> Any:
    options = ["-std=c++17", f"-I{FOLDER}", *(f"-D{name}={value}" for name, value in defines)]
    # CuPy keeps what it compiled by source and options; a changed header must count too.
    header = hashlib.sha256(source_of("numbers.cuh").encode()).hexdigest()
    options.append(f"-DHEADER_{header[:16]}")
    return cupy.RawModule(code=source_of(file), options=tuple(options))


def _said_by_nvidia_smi(device: int) -> dict[str, str]:
    """Clocks and power as it prints them; nothing where it is not installed or fails."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--id={device}", f"--query-gpu={','.join(CLOCKS)}"]
    done = subprocess.run(
        [*command, "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    said = [value.strip() for value in done.stdout.split(",")]
    return dict(zip(CLOCKS, said, strict=True)) if len(said) == len(CLOCKS) else {}


def cupy_or_refusal() -> Any:
    """The module ``cupy``; `InputError` in one line where it or a GPU is missing."""
    try:
        cupy: Any = import_module("cupy")
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
