"""What this package uses of the module ``cupy``, without a GPU: over NumPy and emulated kernels.

Every name here is one of CuPy's, called as CuPy's is; `CALLS` keeps how, so that tests can hold it
against the real module, which can be imported anywhere. A function that is not named in `FUNCTIONS`
is not there, whether CuPy has it or not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from backends.emulation.device import STREAM, DeviceArray, Stream, unwrapped, wrapped
from backends.emulation.kernels import function_of

__version__ = "emulated"
FUNCTIONS = (
    *(
        "abs",
        "add",
        "arange",
        "argmax",
        "bincount",
        "broadcast_to",
        "clip",
        "concatenate",
        "copysign",
    ),
    *(
        "copyto",
        "empty",
        "exp",
        "flatnonzero",
        "floor",
        "frexp",
        "isnan",
        "ldexp",
        "log",
        "matmul",
        "max",
    ),
    *(
        "maximum",
        "minimum",
        "ones",
        "rint",
        "signbit",
        "stack",
        "take_along_axis",
        "where",
        "zeros",
    ),
    *("zeros_like", "asarray", "ascontiguousarray", "asnumpy"),
)
TYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)
CALLS: set[tuple[str, int, tuple[str, ...]]] = set()
"""(name, positional arguments, names of the others) of every call so far."""
ndarray = DeviceArray
inf = np.inf


def __getattr__(name: str) -> Any:
    if name in TYPES:
        return getattr(np, name)
    if name in FUNCTIONS:
        return partial(_call, name)
    raise AttributeError(f"the emulated cupy has no {name!r}; name it in FUNCTIONS if CuPy has it")


def _call(name: str, *args: Any, **options: Any) -> Any:
    CALLS.add((name, len(args), tuple(sorted(options))))
    own = _OWN.get(name)
    if own is not None:
        return own(*args, **options)
    plain = {key: unwrapped(value) for key, value in options.items()}
    return wrapped(getattr(np, name)(*(unwrapped(each) for each in args), **plain))


def _asarray(a: Any, dtype: Any = None) -> DeviceArray:
    """What is there already stays; all else is sent, and is another array then."""
    if isinstance(a, DeviceArray):
        return DeviceArray(np.asarray(a.host, dtype))
    return DeviceArray(np.array(a, dtype))


def _ascontiguousarray(a: Any, dtype: Any = None) -> DeviceArray:
    return DeviceArray(np.ascontiguousarray(_asarray(a).host, dtype))


def _asnumpy(a: DeviceArray) -> Any:
    return a.get() if isinstance(a, DeviceArray) else np.asarray(a)


_OWN: dict[str, Callable[..., Any]] = {
    "asarray": _asarray,
    "ascontiguousarray": _ascontiguousarray,
    "asnumpy": _asnumpy,
}


class Event:
    """A place in the stream: over when somebody has waited for it."""

    def __init__(self) -> None:
        self.done = False
        self.at = 0.0

    def record(self, stream: Stream) -> None:
        """Be behind all that was started."""
        self.at = time.perf_counter()
        self.done = False

    def synchronize(self) -> None:
        """Wait for it."""
        STREAM.synchronize()
        self.done = True


class RawModule:
    """Sources, compiled for the CPU when a kernel of them is first called."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        self._code, self._options = code, options

    def get_function(self, name: str) -> RawKernel:
        """The kernel of that name."""
        return RawKernel(self._code, name, self._options)


class RawKernel:
    """A kernel; what it is given must be what its declaration asks for."""

    preferred_shared_memory_carveout = -1
    attributes: Mapping[str, int] = dict.fromkeys(
        ("num_regs", "shared_size_bytes", "local_size_bytes"), 0
    )

    def __init__(self, code: str, name: str, options: tuple[str, ...]) -> None:
        defines = tuple(each for each in options if each.startswith("-D"))
        self._launch = function_of(code, name, defines)
        self._parameters = parameters_of(code, name)
        self._name = name

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        """Run it; `TypeError` or `ValueError` for what CUDA would take for something else."""
        _check_sizes(self._name, grid, block)
        if len(args) != len(self._parameters):
            raise TypeError(f"{self._name}: {len(args)} arguments for {self._parameters}")
        checked = [_argument(*each) for each in zip(self._parameters, args, strict=True)]
        self._launch(grid, block, checked)


def parameters_of(code: str, name: str) -> list[tuple[str, str]]:
    """(type, name) of a kernel's parameters, qualifiers left out; pointers end in ``*``."""
    bare = re.sub(r"//[^\n]*|\bconst\b|__restrict__|__launch_bounds__\([^)]*\)", "", code)
    found = re.search(rf'extern "C" __global__ void\s+{name}\(([^)]*)\)', bare)
    if found is None:
        raise AttributeError(f"no kernel {name!r}")
    parts = [part.rpartition(" ") for part in " ".join(found[1].split()).split(",")]
    return [(kind.replace(" ", ""), own) for kind, _, own in parts]


_SCALARS = {"int": np.int32, "longlong": np.int64, "float": np.float32}
_ELEMENTS = {"int*": np.int32, "float*": np.float32}


def _argument(parameter: tuple[str, str], value: Any) -> Any:
    kind, name = parameter
    if not kind.endswith("*"):
        if type(value) is not _SCALARS[kind]:
            raise TypeError(f"{name}: {type(value).__name__} for {kind}")
        return value
    if isinstance(value, np.uintp) and not value:
        return value
    if not isinstance(value, DeviceArray):
        raise TypeError(f"{name}: {type(value).__name__} for {kind}")
    if kind in _ELEMENTS and value.dtype != _ELEMENTS[kind]:
        raise TypeError(f"{name}: elements of {value.dtype} for {kind}")
    return value.host


def _check_sizes(name: str, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    """CUDA's limits (programming guide, "Technical Specifications per Compute Capability")."""
    most = (2**31 - 1, 65535, 65535)
    if any(not 0 < size <= limit for size, limit in zip(grid, most, strict=False)):
        raise ValueError(f"{name}: a grid of {grid}")
    if not 0 < int(np.prod(block)) <= 1024:
        raise ValueError(f"{name}: blocks of {block}")


def _milliseconds(start: Event, end: Event) -> float:
    return (end.at - start.at) * 1e3


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: 1,
    getDeviceProperties=lambda device: {"name": b"emulated", "multiProcessorCount": 1},
    deviceGetAttribute=lambda attribute, device: 0,
    cudaDevAttrClockRate=13,
    cudaDevAttrMemoryClockRate=36,
    runtimeGetVersion=lambda: 0,
    driverGetVersion=lambda: 0,
)
cuda = SimpleNamespace(
    Device=lambda: SimpleNamespace(id=0),
    Event=Event,
    get_current_stream=lambda: STREAM,
    get_elapsed_time=_milliseconds,
    runtime=runtime,
)


def empty_pinned(shape: tuple[int, ...], dtype: Any) -> Any:
    """As ``cupyx.empty_pinned``: memory of the host."""
    return np.empty(shape, dtype)
