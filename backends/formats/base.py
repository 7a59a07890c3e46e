"""The interface of a storage format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from backends.arrays import Array


class Format(ABC):
    """Turns rows of f32 into what memory holds, and back.

    A row's last axis is cut into blocks; ``storage_shape`` says what becomes of it. Writing and
    reading are the same operations, in the same order and precision, on both backends and in the
    kernels, so that all of them hold the same bits.
    """

    name: ClassVar[str]
    dtype: ClassVar[str]
    """NumPy's name of the element that memory is made of."""
    block: ClassVar[int] = 1
    """Elements that share a scale."""

    def storage_shape(self, elements: int) -> tuple[int, ...]:
        """Trailing axes in memory of a row of ``elements``."""
        return (elements,)

    @abstractmethod
    def encode(self, xp: Any, rows: Array) -> Array:
        """f32 ``rows`` as memory holds them."""

    @abstractmethod
    def decode(self, xp: Any, stored: Array) -> Array:
        """What was stored, as f32."""

    @abstractmethod
    def error_bound(self, xp: Any, rows: Array) -> Array:
        """The most, element by element, that a round trip can change finite ``rows``."""
