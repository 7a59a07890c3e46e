"""The order in which the engine meets the sequence ids of a token."""

from __future__ import annotations

from functools import lru_cache

#: Bucket counts that a ``std::unordered_set`` of libstdc++ grows through.
_BUCKETS = (13, 29, 59, 127, 257, 541)


@lru_cache(maxsize=4096)
def as_met(ids: tuple[int, ...]) -> tuple[int, ...]:
    """``ids``, as listed by the caller, in the order in which the engine walks them.

    A token's ids go through a ``std::unordered_set`` before they are used, so they come out in the
    order that libstdc++ links them in: what is inserted last comes first, but within a bucket
    (ids equal modulo the bucket count) stays where the bucket is. The first decides in which of its
    cells a shared recurrent state goes on. Seen with xllamacpp and in the recording jamba_u_001003.
    """
    linked: list[int] = []
    buckets = _BUCKETS[0]
    for count, seq in enumerate(dict.fromkeys(ids)):
        if count == buckets:
            buckets = next(n for n in _BUCKETS if n > 2 * buckets)
            before, linked = linked, []
            for other in before:
                _link(linked, other, buckets)
        _link(linked, seq, buckets)
    return tuple(linked)


def _link(linked: list[int], seq: int, buckets: int) -> None:
    """Put ``seq`` before the first of its bucket, or before all if that is empty."""
    mates = (i for i, other in enumerate(linked) if other % buckets == seq % buckets)
    linked.insert(next(mates, 0), seq)
