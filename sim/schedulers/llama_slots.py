"""The slots of llama-server, and which of them a request gets.

Source: ``tools/server/server-context.cpp`` of October 2026, ``get_available_slot``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sim.prompt_cache.prompt import Prompt
from sim.sequence import Sequence
from workloads.prefix import common_prefix
from workloads.request import PrefixPath

KEPT_SHARE = 0.5
"""A slot that would lose more than the rest of what it holds is saved to the host first."""


@dataclass(eq=False, slots=True)
class Slot:
    """One sequence of the engine: what it works on, and what its cache holds.

    number: also the engine's id of the sequence. seq: the sequence it serves or served last, None
    when its cache is empty. busy: whether it serves one now. started: whether the prompt has been
    compared with the cache. prompt: of the cache; while the slot is busy, as it was when the
    sequence started. dropped: tokens that context shifts have taken out. is_child: whether it was
    filled by a fork. last_used: rises with every release, -1 before the first.
    """

    number: int
    seq: Sequence | None = None
    busy: bool = False
    started: bool = False
    is_child: bool = False
    prompt: Prompt = field(default_factory=Prompt)
    dropped: int = 0
    last_used: int = -1

    @property
    def serving(self) -> Sequence:
        """The sequence that the slot serves."""
        assert self.seq is not None and self.busy
        return self.seq

    @property
    def decodes(self) -> bool:
        """Whether only its last token is to be processed, so that each step takes one of it."""
        seq = self.serving if self.busy and self.started else None
        return seq is not None and seq.tokens > seq.prompt and seq.computed + 1 >= seq.tokens

    @property
    def held(self) -> int:
        """Tokens in the cache of a slot that has started on a sequence."""
        return self.serving.computed - self.dropped

    def begin(self, seq: Sequence) -> None:
        """Serve ``seq`` from now on."""
        self.seq, self.busy, self.started, self.is_child, self.dropped = seq, True, False, False, 0

    def end(self, now: int) -> None:
        """Be idle, with what the cache holds."""
        if self.started:
            self.prompt.tokens = self.held
            if not self.dropped:
                self.prompt.known = self.prompt.tokens
        self.busy = False
        self.last_used = now

    def empty(self) -> None:
        """Hold nothing."""
        self.seq = None if not self.busy else self.seq
        self.prompt = Prompt()


def choose(slots: Iterable[Slot], seq: Sequence, similarity: float) -> tuple[Slot | None, bool]:
    """The idle slot that ``seq`` gets (None: no slot is idle), and whether to save it before.

    The one that has the largest share of the prompt, if that is more than ``similarity``; else the
    one that has been idle longest. It is saved if less than half of what it holds stays in use.
    """
    idle = [slot for slot in slots if not slot.busy]
    best, most = None, 0
    if similarity:
        for slot in idle:
            shared = slot.prompt.shared_with(seq.path, seq.prompt)
            if shared > most and shared / seq.prompt > similarity:
                best, most = slot, shared
    if best is not None:
        return best, most / best.prompt.tokens < KEPT_SHARE
    for slot in idle:
        # Of several that were never used, the engine takes the last.
        if best is None or slot.last_used <= best.last_used:
            best = slot
    return best, True


class Turns:
    """Where the user messages of conversations begin: where the answers before them ended.

    The engine learns it from the chat template; here from the requests of the same conversation
    that have been served, as far as the new one goes on from them.
    """

    def __init__(self) -> None:
        self._served: dict[int, list[tuple[PrefixPath, int]]] = {}

    def served(self, seq: Sequence) -> None:
        """``seq`` has been answered."""
        if seq.request.conversation is not None:
            self._served.setdefault(seq.request.conversation, []).append((seq.path, seq.limit))

    def starts(self, seq: Sequence) -> list[int]:
        """Positions in the prompt of ``seq``, rising."""
        number = seq.request.conversation
        before = self._served.get(number, ()) if number is not None else ()
        return sorted(
            {
                end
                for path, end in before
                if end < seq.prompt and common_prefix(path, seq.path) >= end
            }
        )
