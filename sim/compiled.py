"""What mypyc, which can compile the modules that every event goes through, is told by classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

try:
    from mypy_extensions import mypyc_attr
except ModuleNotFoundError:  # Only the compiler listens; bare machines have just NumPy.

    def mypyc_attr(*attrs: str, **kwattrs: object) -> Callable[[T], T]:
        """Nothing to be told."""
        return lambda marked: marked


__all__ = ["mypyc_attr"]
