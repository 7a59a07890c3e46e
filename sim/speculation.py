"""Speculative decoding: tokens are drafted, and one step of the model verifies all of them.

Leviathan, Kalman and Matias, "Fast Inference from Transformers via Speculative Decoding" (ICML
2023): of the drafted tokens the first few are accepted, up to the first that the model rejects,
and the model adds one of its own. How many are accepted is drawn; nothing is generated here.

A sequence that decodes computes the last token it got and its drafts in one step. Schedulers say
how many drafts fit, policies hold cells for all of them and take back what was rejected
(`Policy.take_back`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from itertools import accumulate, repeat
from operator import mul

from sim.drafter import Drafter
from sim.sequence import Sequence
from sim.step import Draft, Step

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def constant_rates(rate: float, tokens: int) -> tuple[float, ...]:
    """`Speculation.rates` where each draft is accepted at ``rate`` if those before it were.

    A step then brings ``(1 - rate ** (tokens + 1)) / (1 - rate)`` tokens on average (Leviathan et
    al., equation 1).
    """
    return tuple(accumulate(repeat(rate, tokens), mul))


class Speculation:
    """Drafts for the sequences of one engine, and what becomes of them.

    rates: how often at least the first, the first two, ... drafts are accepted; as many as tokens
    are drafted, none larger than the one before. vLLM's benchmark prints such rates, llama-server
    takes them (``--spec-synth-rates``). seed: of all that is drawn. drafter: what drafting costs;
    None: nothing, as n-gram lookup. lookahead: tokens beyond the drafts that have to find room,
    where the drafter writes K/V of the next drafts into the same blocks (vLLM's
    ``num_lookahead_tokens``).

    How many are accepted follows from the seed, the request, its sample, and the tokens it has: it
    depends neither on who else runs nor on the policy.
    """

    def __init__(
        self,
        rates: SequenceOf[float],
        seed: int = 0,
        drafter: Drafter | None = None,
        lookahead: int = 0,
    ) -> None:
        self.rates = tuple(rates)
        self.tokens = len(self.rates)
        self.lookahead = lookahead
        self.has_cache = drafter is not None and drafter.has_cache
        self.drafts_first = False
        """Whether the step that verifies drafts makes them first, or the one before at its end."""
        self._seed = seed
        self._drafter = drafter
        self._accepted_at = [0] * self.tokens
        self._decodes = self._kept = self._drafts = self._drafted = 0

    def drafts_for(self, seq: Sequence) -> int:
        """Tokens that are drafted for ``seq``; none for a beam, which may die at any token."""
        return 0 if seq.request.beam_width > 1 else self.tokens

    def accepted(self, seq: Sequence, drafted: int) -> int:
        """How many of ``drafted`` drafts after the tokens of ``seq`` are accepted."""
        drawn = _uniform(self._seed, seq.request.id, seq.sample, seq.tokens)
        return sum([drawn < rate for rate in self.rates[:drafted]])

    def verify(
        self, runs: Iterable[tuple[Sequence, int]], kept_of: Callable[[Sequence, int], int]
    ) -> dict[int, Draft]:
        """What becomes of the drafts of a step that was just scheduled, by sequence id.

        runs: sequences and how many tokens they compute, which ``computed`` counts already.
        kept_of: how many tokens a sequence gets when so many drafts are accepted.
        """
        found: dict[int, Draft] = {}
        for seq, n in runs:
            drafted = seq.computed - seq.tokens
            if drafted != n - 1 or seq.tokens == seq.prompt:
                continue
            accepted = self.accepted(seq, drafted)
            kept = kept_of(seq, accepted)
            self._decodes += 1
            self._kept += kept
            if drafted:
                found[seq.id] = Draft(drafted, accepted, kept)
                self._drafts += 1
                self._drafted += drafted
                for position in range(accepted):
                    self._accepted_at[position] += 1
        return found

    def seconds(self, step: Step, verifying: float) -> float:
        """Time that drafting adds to a step which takes the model ``verifying`` seconds."""
        if self._drafter is None:
            return 0.0
        drafts = step.drafts or {}
        if self.drafts_first:
            lengths = [seq.tokens for seq, _, _ in step.runs if seq.id in drafts]
            passes = max([draft.drafted for draft in drafts.values()], default=0)
        else:
            lengths = [
                seq.tokens + (drafts[seq.id].kept if seq.id in drafts else 1)
                for seq, start, n in step.runs
                if start + n >= seq.tokens and self.drafts_for(seq)
            ]
            passes = self.tokens - 1
        return self._drafter.seconds(step, verifying, lengths, passes)

    @property
    def counts(self) -> Mapping[str, int]:
        """What was counted so far.

        decode_steps, decode_tokens: steps of decoding sequences, each sequence by itself, and the
        tokens they got. drafts, drafted_tokens, accepted_tokens: drafts that were verified, their
        tokens, and those accepted; accepted_at_1, ...: drafts of which so many were accepted at
        least.
        """
        return {
            "decode_steps": self._decodes,
            "decode_tokens": self._kept,
            "drafts": self._drafts,
            "drafted_tokens": self._drafted,
            "accepted_tokens": sum(self._accepted_at),
        } | {f"accepted_at_{i}": n for i, n in enumerate(self._accepted_at, 1)}


def rates_of(counts: Mapping[str, int]) -> dict[str, float | None]:
    """What follows from `Speculation.counts`; None where nothing was drafted.

    acceptance_rate: share of drafted tokens that were accepted. acceptance_length: tokens that a
    verified draft brings, the model's own included, before any are cut off at the end of a request
    (vLLM's mean acceptance length). decode_tokens_per_step: tokens that a decoding sequence gets
    in a step, steps without drafts included.
    """
    drafts, drafted, steps = (counts[n] for n in ("drafts", "drafted_tokens", "decode_steps"))
    accepted = counts["accepted_tokens"]
    return {
        "acceptance_rate": accepted / drafted if drafted else None,
        "acceptance_length": 1 + accepted / drafts if drafts else None,
        "decode_tokens_per_step": counts["decode_tokens"] / steps if steps else None,
    }


def _uniform(*numbers: int) -> float:
    """A number in [0, 1) that ``numbers`` decide (splitmix64: Steele, Lea, Flood, OOPSLA 2014)."""
    x = 0
    for number in numbers:
        x = (x ^ number) + _GOLDEN & _MASK
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
        x ^= x >> 31
    return (x >> 11) * 2.0**-53
