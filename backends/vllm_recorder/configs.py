"""Random engine settings of one recording, by kind of traffic."""

from __future__ import annotations

from math import lcm
from random import Random

from backends.conformance.recording import Record

KINDS = (
    "full_nocache",
    "full_prefix",
    "swa",
    "hybrid",
    "hybrid_mixed",
    "chunked_local",
    "mamba",
    "priority",
    "preempt",
    "abort",
    "maxlen",
    "stall",
    "big",
    "spec_full_prefix",
    "spec_hybrid",
    "spec_chunked_local",
    "spec_priority",
    "spec_preempt",
    "spec_maxlen",
)
"""Kinds of recordings; `big` ones have thousands of steps and tables as checksums.

Those that begin with `SPECULATIVE` are of the kind that follows, with drafts.
"""

SPECULATIVE = "spec_"

IN_FLIGHT = "async_"
IN_FLIGHT_KINDS = tuple(
    IN_FLIGHT + kind
    for kind in ("full_prefix", "swa", "hybrid", "chunked_local", "priority", "preempt")
)
"""Kinds of recordings of the asynchronous scheduler, of the kind that follows the prefix."""

_UNLIMITED = 4096
_TIGHT = ("preempt", "priority", "abort", "stall")
_HYBRIDS = (
    ("full", "swa"),
    ("swa", "full"),
    ("full", "swa", "swa"),
    ("swa", "full", "swa"),
    ("full", "full", "swa"),
    ("swa", "swa"),
    ("full", "swa", "swa", "swa", "swa", "swa"),
)
#: Block sizes over the hash block size, group by group.
_MIXED = (
    (("full", 1), ("swa", 2)),
    (("full", 2), ("swa", 1)),
    (("full", 1), ("swa", 2), ("swa", 4)),
    (("full", 2), ("swa", 1), ("swa", 4)),
    (("swa", 1), ("swa", 2)),
    (("full", 4), ("swa", 2), ("swa", 1), ("swa", 2)),
    (("full", 1), ("swa", 1), ("swa", 1)),
)


def draw_config(rng: Random, kind: str) -> Record:
    """The ``config`` of a header for recordings of ``kind``, of `KINDS` or `IN_FLIGHT_KINDS`."""
    if kind.startswith(IN_FLIGHT):
        return draw_config(rng, kind.removeprefix(IN_FLIGHT)) | {"in_flight": 2}
    if kind.startswith(SPECULATIVE):
        drafts: Record = {"tokens": rng.randint(1, 6), "lookahead": rng.random() < 0.4}
        return draw_config(rng, kind.removeprefix(SPECULATIVE)) | {"speculation": drafts}
    tight, big = kind in _TIGHT, kind == "big"
    block_size = 16 if big else rng.choice((1, 2, 4, 8, 16, 16, 32))
    if kind == "hybrid_mixed":
        block_size = rng.choice((1, 2, 4))
    blocks = rng.choice((16, 20, 24, 33, 48, 64) if tight else (32, 64, 128, 200, 256, 400, 512))
    config: Record = {
        "num_blocks": rng.choice((700, 1500, 2000)) if big else blocks,
        "block_size": block_size,
        "max_num_seqs": rng.choice((48, 64, 128) if big else (1, 2, 4, 8, 16, 32, 64)),
        "max_num_batched_tokens": rng.choice(
            (1024, 2048) if big else (8, 16, 17, 32, 64, 100, 128, 256, 512, 2048)
        ),
        "max_model_len": _UNLIMITED,
        "enable_prefix_caching": kind != "full_nocache" and rng.random() < 0.7,
        "enable_chunked_prefill": True,
        "long_prefill_token_threshold": 0,
        "policy": "fcfs",
        "scheduler_reserve_full_isl": rng.random() < (0.5 if tight or big else 0.8),
        "mamba_cache_mode": "none",
        "groups": [{"block_size": block_size, "kind": "full"}],
    }
    if kind in ("full_prefix", "hybrid_mixed", "big"):
        config["enable_prefix_caching"] = True
    if not big and rng.random() < 0.2:
        config["long_prefill_token_threshold"] = rng.choice((1, 2, 3, 4, 8, 16, 32, 40))
    if kind == "priority" or (kind in ("abort", "hybrid") and rng.random() < 0.25):
        config["policy"] = "priority"
    if kind == "maxlen":
        config["max_model_len"] = rng.randint(16, 260)
    elif kind in ("full_nocache", "full_prefix") and rng.random() < 0.2:
        # Without chunks vLLM wants a step to have room for the longest sequence.
        config["enable_chunked_prefill"] = False
        config["max_model_len"] = rng.randint(16, 400)
        config["max_num_batched_tokens"] = config["max_model_len"] + rng.choice((0, 0, 1, 40))
    _draw_groups(rng, kind, config)
    return config


def _draw_groups(rng: Random, kind: str, config: Record) -> None:
    size = config["block_size"]
    if kind == "swa":
        config["groups"] = [_swa(rng, size)]
    elif kind in ("hybrid", "hybrid_mixed") or (
        kind in ("abort", "big") and rng.random() < (0.25 if kind == "abort" else 0.4)
    ):
        mixed = kind == "hybrid_mixed" or (kind == "hybrid" and rng.random() < 0.3)
        shape = rng.choice(_MIXED) if mixed else [(name, 1) for name in rng.choice(_HYBRIDS)]
        config["groups"] = [
            _swa(rng, size * k) if name == "swa" else {"block_size": size * k, "kind": name}
            for name, k in shape
        ]
        # Groups of one model share their window more often than not; groups that are all equal
        # would be one group.
        windows = [group for group in config["groups"] if group["kind"] == "swa"]
        if len(windows) == len(config["groups"]):
            windows[1]["window"] = windows[0]["window"] + rng.randint(1, 2 * size)
        elif not mixed and rng.random() < 0.6:
            for group in windows:
                group["window"] = windows[0]["window"]
    elif kind == "chunked_local":
        chunk = {
            "block_size": size,
            "kind": "chunked_local",
            "chunk": size * rng.choice((1, 2, 3, 4, 8)),
        }
        full, chunked = rng.choice(((0, 1), (1, 1), (1, 3)))
        config["groups"] = [
            *({"block_size": size, "kind": "full"} for _ in range(full)),
            *(dict(chunk) for _ in range(chunked)),
        ]
    elif kind == "mamba":
        mode = rng.choice(("none", "all", "align"))
        config["mamba_cache_mode"] = mode
        config["enable_prefix_caching"] = mode != "none"
        # A state that is kept for its sequence alone is one block as long as can be.
        own = config["max_model_len"] if mode == "none" else size
        states = [{"block_size": own, "kind": "mamba"} for _ in range(rng.choice((1, 3)))]
        config["groups"] = [{"block_size": size, "kind": "full"}, *states]
        if mode == "align":
            # Chunks are cut to whole blocks: with less room than one nobody would get on.
            config["long_prefill_token_threshold"] = 0
            config["max_num_batched_tokens"] = max(config["max_num_batched_tokens"], 2 * size)


def _swa(rng: Random, block_size: int) -> Record:
    window = rng.choice(
        (
            rng.randint(1, 2 * block_size),
            rng.randint(block_size, 6 * block_size),
            block_size * rng.randint(1, 6),
        )
    )
    return {"block_size": block_size, "kind": "swa", "window": window}


def longest_of(config: Record) -> int:
    """Tokens of the longest sequence that the pool can hold by itself with nothing cached."""
    usable = config["num_blocks"] - 1
    sizes = [group["block_size"] for group in config["groups"]]
    step = lcm(*sizes)
    tokens = usable * step // sum(step // size for size in sizes)
    while sum(-(-tokens // size) for size in sizes) > usable:
        tokens -= 1
    return min(tokens, config["max_model_len"])
