"""The life of a sequence as intervals: queued, prefill, decode, and what interrupted it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workloads.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("queued", "prefill", "decode", "preempted", "swapped", "recompute", "stalled")
"""queued: waits to be scheduled for the first time. prefill: until the first token. preempted,
swapped: gave up its memory, to nobody or to the host. recompute: back after a preemption, until
the next token. stalled: keeps its memory, but the steps pass it over."""

NEEDED = ("stretches_s", "pauses_s", "pause_kinds")


@dataclass(frozen=True)
class Phase:
    """One interval of a life, in seconds."""

    kind: str
    start: float
    end: float


def check_phases(requests: pd.DataFrame) -> None:
    """Raise `InputError` where requests were stored without their pauses."""
    for name in NEEDED:
        if name not in requests:
            raise InputError(
                f"requests.parquet lacks {name!r}, which results of older versions do not have: "
                "expected results of a new run"
            )


def phases_of(row: Any) -> Iterator[Phase]:
    """The phases of a finished sequence in order, without gaps, from arrival to last token.

    row: a row of requests as ``itertuples`` gives it; a failed one has no phases.
    """
    tokens = list(row.stretches_s)
    if not tokens:
        return
    pauses = list(zip(row.pause_kinds, row.pauses_s[::2], row.pauses_s[1::2], strict=True))
    scheduled = row.arrival_s + row.queue_s
    yield from _nonempty(Phase("queued", row.arrival_s, scheduled))
    yield from _between(scheduled, tokens[0], pauses, "prefill")
    breaks = list(zip(tokens[1:-1:2], tokens[2::2], strict=True))
    for number, (first, last) in enumerate(zip(tokens[::2], tokens[1::2], strict=True)):
        yield from _nonempty(Phase("decode", first, last))
        if number < len(breaks):
            yield from _between(*breaks[number], pauses, "stalled")


def _between(
    start: float, end: float, pauses: list[tuple[str, float, float]], otherwise: str
) -> Iterator[Phase]:
    """The time until the next token, which pauses may interrupt."""
    kind, at = otherwise, start
    for pause, out, back in pauses:
        if start <= out and back <= end:
            yield from _nonempty(Phase(kind, at, out))
            yield from _nonempty(Phase(pause, out, back))
            kind, at = ("recompute" if pause == "preempted" else "decode"), back
    yield from _nonempty(Phase(kind, at, end))


def _nonempty(phase: Phase) -> Iterator[Phase]:
    if phase.end > phase.start:
        yield phase


def rows_of(requests: pd.DataFrame) -> Iterator[Any]:
    """The rows of requests, as `phases_of` takes them."""
    yield from requests.itertuples()
