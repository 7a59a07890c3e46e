"""Contexts that random traces are recorded in."""

from __future__ import annotations

from random import Random
from typing import Any, Literal

from sim.llamacpp.geometry import CacheGeometry
from sim.llamacpp.sizes import is_quantized

Profile = Literal["mixed", "fill"]
#: mixed: every operation in turn. fill: long prompts in few cells, so that searches wrap and fail.
PROFILES: tuple[Profile, ...] = ("mixed", "fill")

#: (type_k, type_v) and how often. A quantised V needs flash attention.
_TYPES = {
    ("f16", "f16"): 12,
    ("f32", "f32"): 1,
    ("f16", "q8_0"): 1,
    ("q8_0", "f16"): 1,
    ("q8_0", "q8_0"): 2,
    ("q8_0", "q4_0"): 2,
}
#: Where sequences begin in models with chunks of 8,192 positions: just before a boundary, or at 0.
_STARTS = (0, 8192 - 90, 8192 - 20, 16384 - 40)


def draw_config(
    rng: Random, geometry: CacheGeometry, unified: bool, profile: Profile
) -> dict[str, Any]:
    """The ``config`` of one random trace, with the fields that recordings have."""
    n_seq_max = rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 6, 8))
    streams = 1 if unified else n_seq_max
    if profile == "fill":
        n_ctx = streams * rng.choice((64, 256, 256, 257))
        n_batch, n_ubatch = rng.choice((64, 128, 256)), rng.choice((4, 8, 16, 32, 64))
    else:
        n_ctx = streams * rng.choice((200, 256, 300, 512)) + rng.choice((0, 0, 1, 100))
        n_batch, n_ubatch = rng.choice((32, 64, 128)), rng.choice((4, 8, 16, 32, 512))
    (type_k, type_v) = rng.choices(list(_TYPES), list(_TYPES.values()))[0]
    return {
        "n_ctx": n_ctx,
        "n_batch": n_batch,
        "n_ubatch": n_ubatch,
        "n_seq_max": n_seq_max,
        "kv_unified": unified,
        "swa_full": geometry.swa is not None and rng.random() < 0.12,
        "type_k": type_k,
        "type_v": type_v,
        "flash_attn": is_quantized(type_v) or rng.random() < 0.4,
        # Only LFM2's short convolutions keep snapshots among the tiny models.
        "n_rs_seq": rng.choice((0, 0, 0, 2)) if geometry.arch == "lfm2" else 0,
        "extra_seqs": 2 if unified and geometry.kind == "kv" and rng.random() < 0.1 else 0,
        "pos0": rng.choice(_STARTS) if geometry.window.kind == "chunked" else 0,
        "peek": True,
        "bare": False,
        "profile": profile,
    }


def can_move_positions(geometry: CacheGeometry, config: dict[str, Any]) -> bool:
    """Whether a K-shift in this context leaves the process alive.

    It does not where a model has windows only, whose full cache has no buffer to shift, nor where
    K is quantised in heads that are no multiple of 64 (no rotation is made for those).
    """
    if geometry.swa is not None and geometry.full is None:
        return False
    heads = geometry.full
    return heads is None or not is_quantized(config["type_k"]) or heads.head_dim % 64 == 0
