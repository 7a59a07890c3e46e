"""ggml's quantised blocks: 32 elements share a half-precision scale.

Layout and rounding are those of ``quantize_row_q8_0_ref`` and ``quantize_row_q4_0_ref`` in ggml's
``ggml-quants.c``: a block is its scale (two bytes, little endian) and then the quants.
"""

from __future__ import annotations

from typing import Any

from backends.arrays import Array
from backends.formats.base import Format

BLOCK = 32
_SCALE_BYTES = 2


class _Blocks(Format):
    """Blocks of bytes: a scale, then ``quant_bytes`` of quants."""

    dtype = "uint8"
    block = BLOCK
    quant_bytes: int

    def storage_shape(self, elements: int) -> tuple[int, ...]:
        """(blocks, bytes of a block)."""
        return (elements // BLOCK, _SCALE_BYTES + self.quant_bytes)

    def _joined(self, xp: Any, scale: Array, quants: Array) -> Array:
        scale_bytes = xp.ascontiguousarray(scale.astype(xp.float16)).view(xp.uint8)
        return xp.concatenate([scale_bytes, quants], axis=-1)

    def _scale(self, xp: Any, stored: Array) -> Array:
        scale = xp.ascontiguousarray(stored[..., :_SCALE_BYTES]).view(xp.float16)
        return scale.astype(xp.float32)


class Q8(_Blocks):
    """``q8_0``: one signed byte an element, in units of the block's largest magnitude / 127."""

    name = "q8_0"
    quant_bytes = BLOCK

    def encode(self, xp: Any, rows: Array) -> Array:
        """Halves are rounded away from zero, as C's ``roundf`` does."""
        blocks = _blocks_of(xp, rows)
        scale = xp.max(xp.abs(blocks), axis=-1, keepdims=True) / xp.float32(127)
        scaled = blocks * _inverse(xp, scale)
        quants = xp.copysign(xp.floor(xp.abs(scaled) + xp.float32(0.5)), scaled)
        return self._joined(xp, scale, quants.astype(xp.int8).view(xp.uint8))

    def decode(self, xp: Any, stored: Array) -> Array:
        """Quant times scale."""
        quants = xp.ascontiguousarray(stored[..., _SCALE_BYTES:]).view(xp.int8)
        return _rows_of(quants.astype(xp.float32) * self._scale(xp, stored))

    def error_bound(self, xp: Any, rows: Array) -> Array:
        """Half a unit, and the rounding of the scale to a half (of up to 127 units)."""
        blocks = _blocks_of(xp, rows)
        largest = xp.max(xp.abs(blocks), axis=-1, keepdims=True)
        bound = largest * (0.5 / 127 * 1.001 + 2.0**-11) + 127 * 2.0**-25
        return _rows_of(xp.broadcast_to(bound, blocks.shape))


class Q4(_Blocks):
    """``q4_0``: 4 bits an element, -8 .. 7 in units of the element of largest magnitude / -8.

    Byte j holds element j in its lower and element j + 16 in its upper half.
    """

    name = "q4_0"
    quant_bytes = BLOCK // 2

    def encode(self, xp: Any, rows: Array) -> Array:
        """The element of largest magnitude keeps its sign and becomes -8 exactly."""
        blocks = _blocks_of(xp, rows)
        where = xp.argmax(xp.abs(blocks), axis=-1)[..., None]
        scale = xp.take_along_axis(blocks, where, axis=-1) / xp.float32(-8)
        shifted = blocks * _inverse(xp, scale) + xp.float32(8.5)
        quants = xp.minimum(shifted.astype(xp.int32), 15).astype(xp.uint8)
        packed = quants[..., : BLOCK // 2] | quants[..., BLOCK // 2 :] << 4
        return self._joined(xp, scale, packed)

    def decode(self, xp: Any, stored: Array) -> Array:
        """Quant less 8, times scale."""
        packed = stored[..., _SCALE_BYTES:]
        quants = xp.concatenate([packed & 0xF, packed >> 4], axis=-1).astype(xp.float32)
        return _rows_of((quants - xp.float32(8)) * self._scale(xp, stored))

    def error_bound(self, xp: Any, rows: Array) -> Array:
        """A whole unit, since +8 is not to be had, and the rounding of the scale to a half."""
        blocks = _blocks_of(xp, rows)
        largest = xp.max(xp.abs(blocks), axis=-1, keepdims=True)
        bound = largest * (1 / 8 * 1.001 + 2.0**-11) + 8 * 2.0**-25
        return _rows_of(xp.broadcast_to(bound, blocks.shape))


def _blocks_of(xp: Any, rows: Array) -> Array:
    rows = rows.astype(xp.float32)
    return rows.reshape(*rows.shape[:-1], rows.shape[-1] // BLOCK, BLOCK)


def _rows_of(blocks: Array) -> Array:
    return blocks.reshape(*blocks.shape[:-2], blocks.shape[-2] * BLOCK)


def _inverse(xp: Any, scale: Array) -> Array:
    """1 / scale in single precision; 0 of scales that are 0 as halves and have no inverse."""
    is_nothing = xp.abs(scale) < xp.float32(2.0**-126)
    return xp.where(is_nothing, 0, xp.float32(1) / xp.where(is_nothing, 1, scale))
