"""What mypyc, which can compile the modules that every event goes through, is told by classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import TypeIs

T = TypeVar("T")

try:
    from mypy_extensions import mypyc_attr
except ModuleNotFoundError:  # Only the compiler listens; bare machines have just NumPy.

    def mypyc_attr(*attrs: str, **kwattrs: object) -> Callable[[T], T]:
        """Nothing to be told."""
        return lambda marked: marked


def inherits(cls: object, kind: Callable[..., T]) -> TypeIs[type[T]]:
    """`issubclass`, for abstract classes that may be compiled; False for what is no class.

    A compiled abstract class has no memory of its own for what ``issubclass`` and ``isinstance``
    have found out: it uses that of ``abc.ABC``, and so do all others, so that what was true of one
    of them would be taken to be true of the next.
    """
    return isinstance(cls, type) and kind in cls.__mro__


def is_a(thing: object, kind: Callable[..., T]) -> TypeIs[T]:
    """`isinstance`, for the same classes."""
    return inherits(type(thing), kind)


__all__ = ["inherits", "is_a", "mypyc_attr"]
