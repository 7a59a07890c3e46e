"""What mypyc, which can compile the modules that every event goes through, is told by classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard, TypeVar

T = TypeVar("T")

try:
    from mypy_extensions import mypyc_attr
except ModuleNotFoundError:  # Only the compiler listens; bare machines have just NumPy.

    def mypyc_attr(*attrs: str, **kwattrs: object) -> Callable[[T], T]:
        """Nothing to be told."""
        return lambda marked: marked


def is_a(thing: object, kind: Callable[..., T]) -> TypeGuard[T]:
    """`isinstance`, for abstract classes that may be compiled.

    Those share what ``isinstance`` remembers of abstract classes, so what is true of one of them
    would be taken to be true of all.
    """
    return kind in type(thing).__mro__


__all__ = ["is_a", "mypyc_attr"]
