"""``llama_context_params``: a struct whose layout differs between versions of llama.cpp.

New fields appear in its middle. Where the fields are is therefore found at run time, from the
values that ``llama_context_default_params`` gives them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from backends.recorder.library import Opaque
from workloads.errors import InputError

#: Sizes that begin the struct, and their defaults.
SIZES = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_rs_seq": 0}
#: ``enum ggml_type`` (ggml/include/ggml.h).
GGML_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}

#: rope scaling, pooling, attention, flash attention: four enums in a row, all "unspecified".
_ENUMS = struct.pack("<4i", -1, -1, -1, -1)
#: defragmentation threshold -1, callback and its data NULL, type_k and type_v f16.
_TYPES = struct.pack("<fQQii", -1.0, 0, 0, 1, 1)
#: embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified.
_BOOLS = bytes([0, 1, 1, 1, 1, 0])


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets of the fields that a recording sets, in bytes."""

    flash_attn: int
    type_k: int
    type_v: int
    swa_full: int
    kv_unified: int


def find_layout(defaults: bytes) -> Layout:
    """Find the fields in the default parameters. Raises `InputError` where they are not clear."""
    sizes = struct.unpack_from(f"<{len(SIZES)}I", defaults)
    if sizes != tuple(SIZES.values()):
        raise InputError(f"llama_context_params: expected {SIZES} at the start, found {sizes}")
    enums = _position(defaults, _ENUMS, 0, "the enums")
    types = _position(defaults, _TYPES, enums, "type_k and type_v") + len(_TYPES) - 8
    bools = _position(defaults, _BOOLS, types + 8, "the flags")
    return Layout(enums + 12, types, types + 4, bools + 4, bools + 5)


def context_params(defaults: Opaque, config: dict[str, Any]) -> Opaque:
    """``defaults`` with what a recording's ``config`` asks for."""
    filled = bytearray(defaults.bytes)
    layout = find_layout(bytes(filled))
    struct.pack_into(f"<{len(SIZES)}I", filled, 0, *(config[name] for name in SIZES))
    struct.pack_into("<i", filled, layout.flash_attn, int(config["flash_attn"]))
    struct.pack_into("<i", filled, layout.type_k, GGML_TYPES[config["type_k"]])
    struct.pack_into("<i", filled, layout.type_v, GGML_TYPES[config["type_v"]])
    filled[layout.swa_full] = config["swa_full"]
    filled[layout.kv_unified] = config["kv_unified"]
    return Opaque.from_buffer(filled)


def _position(defaults: bytes, pattern: bytes, start: int, what: str) -> int:
    found = defaults.find(pattern, start)
    if found < 0:
        raise InputError(f"llama_context_params: {what} are not where this recorder looks for them")
    return found
