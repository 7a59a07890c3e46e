"""An array of a device that is not there: NumPy's, behind the face and the strictness of CuPy's.

What CuPy would refuse is refused here: arrays of the host among those of the device, a device's
array where the host wants one, methods that `cupy.ndarray` does not have. Copies to the host that
do not block arrive when somebody waits for them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

UNWRITTEN = 0xA5
"""What is in host memory that a copy has not reached yet."""


class Stream:
    """The order of work. All is done at once, but for copies that the host must wait for."""

    ptr = 0

    def __init__(self) -> None:
        self._coming: list[tuple[Any, Any]] = []

    def arrives_later(self, buffer: Any, array: Any) -> None:
        """``buffer`` will hold what ``array`` holds now."""
        self._coming.append((buffer, array.copy()))
        buffer.view(np.uint8)[...] = UNWRITTEN

    def synchronize(self) -> None:
        """Everything arrives."""
        for buffer, array in self._coming:
            buffer[...] = array
        self._coming.clear()


STREAM = Stream()


def _reduction(name: str) -> Any:
    def reduce(self: DeviceArray, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        """As NumPy's; an array of no axis for a number."""
        return DeviceArray(np.asarray(getattr(self.host, name)(axis=axis, keepdims=keepdims)))

    return reduce


class DeviceArray:
    """What `cupy.ndarray` is to the code of this package, and no more."""

    __slots__ = ("host",)
    __array_ufunc__ = None

    def __init__(self, host: Any) -> None:
        self.host = host

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion of an array of the device; use get()")

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy's."""
        return tuple(self.host.shape)

    @property
    def dtype(self) -> Any:
        """As NumPy's."""
        return self.host.dtype

    @property
    def nbytes(self) -> int:
        """As NumPy's."""
        return int(self.host.nbytes)

    @property
    def data(self) -> Any:
        """Its memory; ``data.ptr`` is the address."""
        return SimpleNamespace(ptr=self.host.ctypes.data)

    @property
    def T(self) -> DeviceArray:  # noqa: N802
        """As NumPy's."""
        return DeviceArray(self.host.T)

    def __len__(self) -> int:
        return len(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __neg__(self) -> DeviceArray:
        return DeviceArray(-self.host)

    def __invert__(self) -> DeviceArray:
        return DeviceArray(~self.host)

    def __getitem__(self, index: Any) -> DeviceArray:
        return DeviceArray(np.asarray(self.host[_index_of(index)]))

    def __setitem__(self, index: Any, value: Any) -> None:
        self.host[_index_of(index)] = unwrapped(value)

    def astype(self, dtype: Any, copy: bool = True) -> DeviceArray:
        """As NumPy's."""
        return DeviceArray(self.host.astype(dtype, copy=copy))

    def reshape(self, *shape: Any) -> DeviceArray:
        """As NumPy's."""
        return DeviceArray(self.host.reshape(*shape))

    def transpose(self, *axes: Any) -> DeviceArray:
        """As NumPy's."""
        return DeviceArray(self.host.transpose(*axes))

    def view(self, dtype: Any) -> DeviceArray:
        """As NumPy's."""
        return DeviceArray(self.host.view(dtype))

    max, min, sum = _reduction("max"), _reduction("min"), _reduction("sum")
    all, argmax, argmin = _reduction("all"), _reduction("argmax"), _reduction("argmin")

    def tolist(self) -> Any:
        """As NumPy's; waits for the device."""
        return self.host.tolist()

    def fill(self, value: Any) -> None:
        """As NumPy's."""
        self.host.fill(value)

    def get(self, stream: Stream = STREAM, out: Any = None, blocking: bool = True) -> Any:
        """A copy on the host; into ``out``, and later, where it does not block."""
        if out is None:
            return self.host.copy()
        if out.shape != self.shape or out.dtype != self.dtype:
            raise ValueError("expected a buffer of the array's shape and type")
        stream.arrives_later(out, self.host)
        if blocking:
            stream.synchronize()
        return out

    def set(self, arr: Any, stream: Stream = STREAM) -> None:
        """Take over a host array, behind what is under way."""
        if not isinstance(arr, np.ndarray) or arr.shape != self.shape or arr.dtype != self.dtype:
            raise TypeError("expected a host array of the same shape and type")
        stream.synchronize()
        self.host[...] = arr


def unwrapped(value: Any) -> Any:
    """What a function of NumPy gets for an argument; `TypeError` for an array of the host."""
    if isinstance(value, DeviceArray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError("unsupported type numpy.ndarray: an array of the host on the device")
    if isinstance(value, list | tuple):
        return type(value)(unwrapped(each) for each in value)
    return value


def wrapped(value: Any) -> Any:
    """Arrays of NumPy, and its numbers, as arrays of the device."""
    if isinstance(value, tuple):
        return tuple(wrapped(each) for each in value)
    return DeviceArray(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def _index_of(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_index_of(each) for each in index)
    # CuPy indexes its arrays with NumPy's too, by sending them; here that counts as forgotten.
    return unwrapped(index)


def _binary(work: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    def forward(self: DeviceArray, other: Any) -> DeviceArray:
        return DeviceArray(np.asarray(work(self.host, unwrapped(other))))

    def backward(self: DeviceArray, other: Any) -> DeviceArray:
        return DeviceArray(np.asarray(work(unwrapped(other), self.host)))

    return forward, backward


for _name in (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift"),
    *("matmul", "and_", "or_", "xor", "lt", "le", "gt", "ge", "eq", "ne"),
):
    _plain = _name.rstrip("_")
    _forward, _backward = _binary(getattr(operator, _name))
    setattr(DeviceArray, f"__{_plain}__", _forward)
    if _plain not in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(DeviceArray, f"__r{_plain}__", _backward)
