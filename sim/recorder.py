"""What happened in a run, written down exactly and compactly.

Per step only its end and how many sequences went on streaming are kept; a sequence remembers the
stretches of consecutive steps in which it got a token. Every inter-token latency of every
sequence follows from these. Occupancy is integrated over time in whole cells and ticks.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Any, cast

import numpy as np

from sim.clock import to_seconds
from sim.compiled import mypyc_attr
from sim.decode_run import DecodeRun
from sim.policies.base import Policy
from sim.request_rows import RequestRows
from sim.samples import Samples
from sim.scanned import Scanned
from sim.schedulers.batch import DecodeBatch
from sim.schedulers.runs import number_of, parts_of
from sim.sequence import Sequence, Status
from sim.step import Count, Placement, Run, Step
from sim.step_log import Spans, StepLog
from sim.stretches import StretchTable
from sim.tally import Tally
from sim.usage import CellTicks, Usage
from sim.work import size_of
from workloads.request import Request


class _Track:
    """A live sequence: when it was first scheduled and got tokens, and in which steps.

    pauses: seconds at which it was preempted, came back, was preempted, ...; kinds: of each pause.
    """

    def __init__(self, first_scheduled: float) -> None:
        self.first_scheduled = first_scheduled
        self.first_token = float("nan")
        self.stretches: list[list[int]] = []
        self.pauses: list[float] = []
        self.kinds: list[str] = []


@mypyc_attr(allow_interpreted_subclasses=True)
class Recorder:
    """Takes note of every step of one engine and of every request's end."""

    def __init__(self, policy: Policy, with_maps: bool = False) -> None:
        self.policy = policy
        self.samples = Samples(policy, with_maps)
        self.scanned = Scanned(policy.groups, policy.cell_bytes)
        self.log = StepLog()
        self.tally = Tally()
        self.cell_ticks: list[CellTicks] = []
        """How each cache was used."""
        self.peak_live = 0
        self.events = 0
        """Steps and runs of steps: what the simulation went through one by one."""
        self.running_ticks = 0
        self.busy_ticks = 0
        self.rows = RequestRows()
        self.stretches = StretchTable()
        self.pauses: list[list[float]] = []
        self.pause_kinds: list[list[str]] = []
        self._none: list[Any] = []
        """What most requests have of pauses: one list for all of them, never changed."""
        self._tracks: dict[int, _Track] = {}
        self._streaming: set[int] = set()
        """Who got a token in the last step and is still there."""

    def usage(self) -> tuple[Usage, ...]:
        """The caches as they are now."""
        return self.policy.usage()

    def evictions(self) -> int:
        """Blocks of prefix caches that were given up for others."""
        return self.policy.evictions

    def cache_names(self) -> list[str]:
        """What the caches are called, in the order of `usage`."""
        return [self.policy.cache_name(cache) for cache in range(len(self.usage()))]

    # Steps.

    def step(self, start: int, end: int, step: Step, placement: Placement) -> None:
        """One step that ran from ``start`` to ``end`` (ticks)."""
        began, ended = to_seconds(start), to_seconds(end)
        for seq in step.admitted:
            self._tracks.setdefault(seq.id, _Track(began))
        self._pauses(step, began)
        self.events += 1
        went_on = self._emissions(self.log.steps, ended, step)
        self.log.append(end - start, end, went_on)
        self.running_ticks += number_of(step.runs) * (end - start)
        self._count(step, placement)

    def _pauses(self, step: Step, now: float) -> None:
        """Note who comes back and who has to pause."""
        for seq in step.resumed:
            self._tracks[seq.id].pauses.append(now)
        for seq in step.preempted:
            track = self._tracks[seq.id]
            track.pauses.append(now)
            track.kinds.append("swapped" if seq.status is Status.SWAPPED else "preempted")

    def _emissions(self, index: int, now: float, step: Step) -> int:
        """Note which sequences get a token; how many of them got one in the step before too."""
        batch, apart = parts_of(step.runs)
        streaming, emitting = self._streaming, []
        went_on = prompt_tokens = 0
        if batch is not None:
            started = self._started_in(batch)
            went_on = batch.size - len(started)
            for seq in started:
                self._starts_streaming(seq, index, now)
        for seq, start, n in apart:
            end = start + n
            if start < seq.prompt:
                prompt_tokens += min(end, seq.prompt) - start
            if start < seq.high:
                seq.recomputed += min(end, seq.high) - start
            if end >= seq.tokens:
                emitting.append(seq.id)
                if seq.id in streaming:
                    went_on += 1
                else:
                    self._starts_streaming(seq, index, now)
        output_tokens = len(emitting) + (batch.size if batch is not None else 0)
        if len(streaming) > output_tokens:
            self._pause(streaming.difference(emitting, (seq.id for seq in batch or ())), index)
        if step.drafts:
            output_tokens += sum([draft.kept - 1 for draft in step.drafts.values()])
        self.tally.prompt_tokens += prompt_tokens
        self.tally.output_tokens += output_tokens
        return went_on

    def _started_in(self, batch: DecodeBatch) -> list[Sequence]:
        """Members of a batch that got no token in the step before."""
        newcomers, batch.newcomers = batch.newcomers, []
        return [seq for seq in newcomers if seq in batch and seq.id not in self._streaming]

    def _pause(self, paused: set[int], index: int) -> None:
        """These get no token in step ``index``."""
        for owner in paused:
            self._tracks[owner].stretches[-1][1] = index - 1
        self._streaming -= paused

    def _starts_streaming(self, seq: Sequence, index: int, now: float) -> None:
        track = self._tracks[seq.id]
        if not track.stretches:
            track.first_token = now
        track.stretches.append([index, index])
        self._streaming.add(seq.id)

    def forked(self, parent: Sequence, child: Sequence) -> None:
        """``child`` goes on from where ``parent`` is, and has got its first token with it."""
        track, index = self._tracks[parent.id], self.log.steps - 1
        forked = self._tracks[child.id] = _Track(track.first_scheduled)
        forked.first_token = to_seconds(self.log.last_end)
        forked.stretches.append([index, index])
        self._streaming.add(child.id)
        self.tally.output_tokens += 1

    def replaced(self, dead: Sequence, child: Sequence) -> None:
        """``child`` takes the place of ``dead``, and its last token, with another history."""
        track = self._tracks[child.id] = self._tracks.pop(dead.id)
        self._streaming.discard(dead.id)
        if child.status is Status.RUNNING:
            self._streaming.add(child.id)
        else:
            track.stretches[-1][1] = self.log.steps - 1

    def _count(self, step: Step, placement: Placement) -> None:
        tally = self.tally
        scheduled = _tokens_in(step.runs)
        computed = scheduled if placement.runs is step.runs else _tokens_in(placement.runs)
        tally.steps += 1
        tally.computed_tokens += computed
        tally.recomputed_tokens += computed - scheduled
        tally.preemptions += len(step.preempted)
        tally.alloc_failures += len(step.refused) + placement.failures
        tally.swapped_bytes += step.swapped_out + step.swapped_in
        for shift in placement.shifts:
            tally.shifted_bytes += shift.bytes
        for copy in placement.copies:
            if copy.kind == "cow":
                tally.cow_bytes += copy.bytes
            elif copy.kind in ("defrag", "compaction"):
                tally.defrag_bytes += copy.bytes
            else:
                tally.moved_bytes += copy.bytes

    @property
    def counts(self) -> dict[str, int]:
        """The tally by name."""
        return self.tally.by_name()

    def are_streaming(self, batch: SequenceOf[Sequence]) -> bool:
        """Whether the last step gave a token to all of ``batch``, and to nobody else."""
        streaming = self._streaming
        if size_of(batch) != len(streaming):
            return False
        for seq in batch.newcomers if isinstance(batch, DecodeBatch) else batch:
            if seq.id not in streaming:
                return False
        return True

    def run(self, start: int, spans: Spans, sequences: int, plan: DecodeRun, refusals: int) -> None:
        """Decode steps of ``sequences`` streaming sequences, from ``start`` (ticks) on."""
        n = spans.steps
        self.events += 1
        self.log.extend(start, spans, sequences)
        totals, most = plan.occupied(spans)
        sums = self._sums_of(len(totals))
        for cache, amounts in enumerate(totals):
            sums[cache].add(amounts)
        self._was_busy(spans.duration, most)
        computed = n * sequences if plan.tokens is None else _total(plan.tokens, n)
        tally = self.tally
        self.running_ticks += sequences * spans.duration
        tally.steps += n
        tally.alloc_failures += refusals
        tally.output_tokens += n * sequences
        tally.computed_tokens += computed
        tally.recomputed_tokens += computed - n * sequences

    def occupied(self, usage: tuple[Usage, ...], ticks: int) -> None:
        """The caches were used like this for so long."""
        live, sums = 0, self._sums_of(len(usage))
        for cache, part in enumerate(usage):
            sums[cache].use(part, ticks)
            live += cast("int", part.live) * part.cell_bytes
        self._was_busy(ticks, live)

    def _sums_of(self, caches: int) -> list[CellTicks]:
        if not self.cell_ticks:
            self.cell_ticks = [CellTicks() for _ in range(caches)]
        return self.cell_ticks

    def _was_busy(self, ticks: int, live: int) -> None:
        """``live``: the most bytes that were live meanwhile."""
        self.busy_ticks += ticks
        if live > self.peak_live:
            self.peak_live = live

    @property
    def occupancy(self) -> list[dict[str, int]]:
        """`cell_ticks` by name."""
        return [each.by_name() for each in self.cell_ticks]

    def sample(self, now: int, running: int, waiting: int) -> None:
        """Take a snapshot at the end of a step; to be called when one is due."""
        tally = self.tally
        counts = {
            "steps": tally.steps,
            "prompt_tokens": tally.prompt_tokens,
            "output_tokens": tally.output_tokens,
            "preemptions": tally.preemptions,
            "running": running,
            "waiting": waiting,
        }
        self.samples.take(now, counts)

    # Requests.

    def finished(self, seq: Sequence, now: float) -> None:
        """``seq`` got its last token at ``now`` (seconds)."""
        track = self._tracks.pop(seq.id)
        self._streaming.discard(seq.id)
        track.stretches[-1][1] = self.log.steps - 1
        self.tally.recomputed_tokens += seq.recomputed
        times = track.first_scheduled, track.first_token, now
        costs = seq.preemptions, seq.recomputed, seq.hit
        self._row(seq.request, seq.sample, times, costs, "finished", "")
        self.stretches.append(track.stretches)
        self.pauses.append(track.pauses or self._none)
        self.pause_kinds.append(track.kinds or self._none)

    def failed(self, request: Request, reason: str) -> None:
        """``request`` is given up; ``reason`` says why in a few words."""
        nan = float("nan")
        self._row(request, 0, (nan, nan, nan), (0, 0, 0), "failed", reason)
        self.stretches.append([])
        self.pauses.append(self._none)
        self.pause_kinds.append(self._none)

    def _row(
        self,
        request: Request,
        sample: int,
        times: tuple[float, float, float],
        costs: tuple[int, int, int],
        status: str,
        reason: str,
    ) -> None:
        """``times``: first scheduled, first token, finish; ``costs``: the last three integers."""
        conversation = -1 if request.conversation is None else request.conversation
        first_scheduled, first_token, finish = times
        preemptions, recomputed, hit = costs
        self.rows.append(
            (
                request.arrival,
                first_scheduled,
                first_token,
                finish,
                request.id,
                sample,
                conversation,
                request.turn,
                request.priority,
                request.prompt,
                request.output,
                preemptions,
                recomputed,
                hit,
                request.slo_class,
                status,
                reason,
            )
        )


def _tokens_in(runs: SequenceOf[Run]) -> int:
    batch, apart = parts_of(runs)
    return sum([run[2] for run in apart]) + (batch.size if batch is not None else 0)


def _total(count: Count, steps: int) -> int:
    """The sum of a plan's count over the steps that were really taken."""
    return int(count[:steps].sum()) if isinstance(count, np.ndarray) else count * steps
