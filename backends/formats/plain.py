"""Formats in which every element stands for itself."""

from __future__ import annotations

from typing import Any

from backends.arrays import Array
from backends.formats.base import Format


class F32(Format):
    """IEEE single precision."""

    name = "f32"
    dtype = "float32"

    def encode(self, xp: Any, rows: Array) -> Array:
        """As it is."""
        return rows.astype(xp.float32)

    def decode(self, xp: Any, stored: Array) -> Array:
        """As it is."""
        return stored

    def error_bound(self, xp: Any, rows: Array) -> Array:
        """None."""
        return xp.zeros_like(rows)


class F16(Format):
    """IEEE half precision, rounded to nearest even."""

    name = "f16"
    dtype = "float16"

    def encode(self, xp: Any, rows: Array) -> Array:
        """The nearest half."""
        return rows.astype(xp.float16)

    def decode(self, xp: Any, stored: Array) -> Array:
        """Exact."""
        return stored.astype(xp.float32)

    def error_bound(self, xp: Any, rows: Array) -> Array:
        """Half a unit in the last of 11 places; of the smallest subnormal below 2^-14."""
        return xp.maximum(xp.abs(rows) * 2.0**-11, 2.0**-25)


class BF16(Format):
    """The upper half of a single, rounded to nearest even; kept as uint16."""

    name = "bf16"
    dtype = "uint16"

    def encode(self, xp: Any, rows: Array) -> Array:
        """Adds just under half a unit, and one more where the last kept bit is odd."""
        bits = xp.ascontiguousarray(rows, dtype=xp.float32).view(xp.uint32)
        half = (bits >> 16 & 1) + xp.uint32(0x7FFF)
        rounded = bits + half >> 16
        quiet_nan = bits >> 16 | 0x40
        is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
        return xp.where(is_nan, quiet_nan, rounded).astype(xp.uint16)

    def decode(self, xp: Any, stored: Array) -> Array:
        """Exact."""
        return (stored.astype(xp.uint32) << 16).view(xp.float32)

    def error_bound(self, xp: Any, rows: Array) -> Array:
        """Half a unit in the last of 8 places."""
        return xp.maximum(xp.abs(rows) * 2.0**-8, 2.0**-134)


class FP8(Format):
    """OCP e4m3: 4 exponent bits (bias 7), 3 of mantissa, no infinity; scale 1; kept as uint8.

    What is too large becomes the largest value, 448, as the hardware's saturating conversion does
    (OCP 8-bit floating point specification 1.0, section 5).
    """

    name = "fp8"
    dtype = "uint8"

    def encode(self, xp: Any, rows: Array) -> Array:
        """Rounds to nearest even in units of the value's binade.

        A code counts units through all binades, so a carry into the next one needs no care.
        """
        is_nan = xp.isnan(rows)
        size = xp.abs(xp.where(is_nan, 0, rows).astype(xp.float32))
        exponent = xp.where(size > 0, xp.clip(xp.frexp(size)[1] - 1, -6, 8), -6)
        units = xp.rint(xp.ldexp(xp.minimum(size, 448.0), 3 - exponent)).astype(xp.int32)
        code = xp.minimum((exponent + 6) * 8 + units, 0x7E)
        code = xp.where(is_nan, 0x7F, code)
        return (code | xp.signbit(rows) * 0x80).astype(xp.uint8)

    def decode(self, xp: Any, stored: Array) -> Array:
        """By a table of the 256 values."""
        return xp.asarray(_e4m3_values(), dtype=xp.float32)[stored]

    def error_bound(self, xp: Any, rows: Array) -> Array:
        """Half a unit in the last of 4 places; whatever lies beyond 448."""
        size = xp.abs(rows)
        return xp.maximum(xp.maximum(size * 2.0**-4, 2.0**-10), size - 448.0)


def _e4m3_values() -> list[float]:
    """The value of every code, from the definition."""
    positive = [
        (mantissa / 8) * 2.0**-6 if not exponent else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        for exponent in range(16)
        for mantissa in range(8)
    ]
    positive[0x7F] = float("nan")
    return positive + [-value for value in positive]
