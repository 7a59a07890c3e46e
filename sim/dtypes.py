"""Types in which K and V are cached, with their true sizes."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.errors import InputError
from workloads.registry import suggestion_for


@dataclass(frozen=True, slots=True)
class KVType:
    """An element type of the cache: ``block_elements`` elements take ``block_bytes`` bytes.

    Plain types have blocks of one element. The quantised ones are ggml's: 32 elements share a
    half-precision scale (``_1`` types also a half-precision minimum, ``q5`` types also 4 bytes of
    fifth bits), which is why q8_0 takes 34 bytes and not 32. Source: ggml's ``ggml-common.h``.
    """

    name: str
    block_elements: int
    block_bytes: int

    def bytes_of(self, n_elements: int) -> int:
        """Bytes of one row of ``n_elements``; `InputError` unless whole blocks fill the row."""
        blocks, rest = divmod(n_elements, self.block_elements)
        if rest:
            raise InputError(
                f"KV type {self.name!r} needs rows of a multiple of {self.block_elements} "
                f"elements, this model's have {n_elements}"
            )
        return blocks * self.block_bytes


KV_TYPES: dict[str, KVType] = {
    kind.name: kind
    for kind in (
        KVType("f32", 1, 4),
        KVType("f16", 1, 2),
        KVType("bf16", 1, 2),
        KVType("fp8", 1, 1),
        KVType("int8", 1, 1),
        KVType("q8_0", 32, 34),
        KVType("q5_1", 32, 24),
        KVType("q5_0", 32, 22),
        KVType("q4_1", 32, 20),
        KVType("q4_0", 32, 18),
        KVType("iq4_nl", 32, 18),
    )
}


def kv_type(name: str | KVType) -> KVType:
    """The type called ``name`` (in any case); `InputError` where there is none."""
    if isinstance(name, KVType):
        return name
    found = KV_TYPES.get(name.lower())
    if found is None:
        raise InputError(f"unknown KV type {name!r}; {suggestion_for(name.lower(), KV_TYPES)}")
    return found
