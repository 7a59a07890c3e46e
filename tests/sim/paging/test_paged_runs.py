"""Made-up traffic over made-up caches, done in several ways that must not differ.

Decode runs against single steps, sequences visited when they are due against all at every step,
and private branches of the prefix tree against ones that nobody else happens to have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.budget import Budget
from sim.clock import to_seconds
from sim.decode_run import DecodeRun
from sim.layers import AttentionSpec, LayerSpec
from sim.model import ModelSpec
from sim.paging.spec import GroupSpec, Layout
from sim.policies.paged import Paged
from sim.schedulers.vllm import VllmScheduler
from sim.sequence import Sequence
from sim.state import StateSpec
from sim.step import Reads
from sim.timing.base import DecodeClock
from sim.usage import Usage, counts_of
from workloads.request import Request

LONGEST = 512
END = 2_000
FIELDS = ("capacity", "live", "reserved", "internal", "free", "external", "shared")
given_traffic = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def layer(group: GroupSpec) -> LayerSpec:
    if group.kind == "recurrent":
        return LayerSpec(state=StateSpec(kind="shortconv", d_inner=64, d_conv=2))
    return LayerSpec(
        attention=AttentionSpec(
            heads=1,
            kv_heads=1,
            head_dim_k=32,
            head_dim_v=32,
            kind=group.kind,
            window=group.window or None,
        )
    )


@dataclass(frozen=True)
class Setup:
    layout: Layout
    limits: dict[str, int]
    options: Paged.Options
    scheduling: VllmScheduler.Options

    def policy(self, kind: type[Paged] = Paged) -> Paged:
        model = ModelSpec("made up", tuple(map(layer, self.layout.groups)), 64, 100)
        return kind(Budget(model, 0, **self.limits), self.options, self.layout)


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    size = draw(st.sampled_from([1, 2, 3, 4, 8]))
    mode = draw(st.sampled_from(["none", "all", "align"]))
    groups = []
    for index in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["full", "full", "swa", "swa", "chunked", "recurrent"]))
        window = draw(st.integers(1, 20)) if kind in ("swa", "chunked") else 0
        tokens = size * draw(st.sampled_from([1, 1, 2]))
        if kind == "recurrent":
            tokens = LONGEST if mode == "none" else size
        elif kind == "chunked":
            tokens = size
        group_mode = mode if kind == "recurrent" else ""
        groups.append(GroupSpec(kind, tokens, window, group_mode, (index,)))
    # Groups of one type, next to each other or not.
    again = draw(st.lists(st.sampled_from(groups), max_size=2))
    groups = [
        replace(group, layer_ids=(index,))
        for index, group in enumerate(draw(st.permutations(groups + again)))
    ]
    limits = {
        "max_seqs": draw(st.integers(1, 8)),
        "max_batched_tokens": draw(st.sampled_from([8, 16, 64])),
        "max_model_len": LONGEST,
    }
    return Setup(
        Layout(tuple(groups), draw(st.integers(8, 80)) * len(groups), 1024),
        limits,
        Paged.Options(
            block_size=size,
            prefix_cache=draw(st.booleans()),
            reserve_full_isl=draw(st.booleans()),
            mamba_cache_mode=mode,
        ),
        VllmScheduler.Options(
            **limits,
            long_prefill_threshold=draw(st.sampled_from([0, 0, 5])),
            policy=draw(st.sampled_from(["fcfs", "priority"])),
            preemption=draw(st.sampled_from(["recompute", "recompute", "swap"])),
        ),
    )


@st.composite
def traffic(draw: st.DrawFn) -> list[Request]:
    """Requests, some of which share their beginning, and some also what follows it."""
    requests = []
    for number in range(draw(st.integers(1, 12))):
        prompt, output = draw(st.integers(1, 60)), draw(st.integers(1, 40))
        path = None
        if draw(st.booleans()):
            cut = min(draw(st.integers(1, 60)), prompt + output)
            path = ((0, cut),)
            if cut < prompt + output:
                branch = draw(st.sampled_from([-1000 - number, 100 + cut]))
                path = ((0, cut), (branch, prompt + output))
        arrival = float(draw(st.integers(0, 60)))
        requests.append(
            Request(number, arrival, prompt, output, path, priority=draw(st.integers(0, 2)))
        )
    return sorted(requests, key=lambda request: request.arrival)


Entry = tuple[int, list[int], list[int], list[list[int]], list[int], int]


def entry(
    at: int, running: list[int], usage: list[int], reads: list[list[int]], *rest: Any
) -> Entry:
    return (at, sorted(running), usage, reads, *rest)


def usage_at(usage: Usage, steps: int, step: int) -> list[int]:
    return [int(np.broadcast_to(getattr(usage, name), steps)[step]) for name in FIELDS]


def reads_at(reads: tuple[Reads, ...], steps: int, step: int) -> list[list[int]]:
    return [[int(np.broadcast_to(count, steps)[step]) for count in group] for group in reads]


class Served:
    """Requests served to the end, with a log of every step."""

    def __init__(
        self,
        setup: Setup,
        requests: list[Request],
        longest_run: Callable[[], int] | None = None,
        policy: type[Paged] = Paged,
        scheduler: type[VllmScheduler] = VllmScheduler,
    ) -> None:
        self.policy = setup.policy(policy)
        self.scheduler = scheduler(self.policy, setup.scheduling)
        self.log: list[Entry] = []
        self.runs = 0
        self._at = 0
        self._longest_run = longest_run
        coming = [Sequence(number, request) for number, request in enumerate(requests)]
        coming = [seq for seq in coming if self.policy.can_ever_hold(seq)]
        while (coming or self.scheduler.has_work) and self._at < END:
            while coming and coming[0].arrival <= self._at:
                self.scheduler.add(coming.pop(0))
            until = int(coming[0].arrival) if coming else END
            if self.scheduler.has_work:
                self._advance(until)
                self.policy.check_integrity()
            else:
                self._at = until

    def _advance(self, until: int) -> None:
        steps = min(self.scheduler.steady_steps(), until - self._at) if self._longest_run else 0
        plan = self.policy.plan_run(self.scheduler.batch, steps) if steps else None
        if plan is None:
            self._single()
        else:
            self._several(plan)

    def _single(self) -> None:
        step = self.scheduler.schedule()
        placement = self.policy.commit(step)
        running = [run.seq.id for run in step.runs]
        usage = usage_at(self.policy.usage()[0], 1, 0)
        self.policy.check_integrity()
        finished = [seq.id for seq in self.scheduler.update(step)]
        reads = reads_at(placement.reads, 1, 0)
        self.log.append(entry(self._at, running, usage, reads, finished, len(step.refused)))
        self._at += 1

    def _several(self, plan: DecodeRun) -> None:
        assert self._longest_run is not None
        steps = min(self._longest_run(), plan.steps)
        running = [seq.id for seq in self.scheduler.batch]
        usages = [usage_at(plan.usage[0], plan.steps, step) for step in range(steps)]
        reads = [reads_at(plan.reads, plan.steps, step) for step in range(steps)]
        plan.apply(steps)
        self.scheduler.schedule_run(steps)
        refused = self.scheduler.refusals_per_step
        finished = [seq.id for seq in self.scheduler.update_run(steps)]
        for step in range(steps):
            ended = finished if step == steps - 1 else []
            self.log.append(
                entry(self._at + step, running, usages[step], reads[step], ended, refused)
            )
        self._at += steps
        self.runs += 1

    def state(self) -> tuple[Any, ...]:
        """Tables, the free queue, and what can be found."""
        manager = self.policy.manager
        pool = manager.pool
        tables = {
            owner: [table.blocks for table in holding.tables]
            for owner, holding in manager.holdings.items()
        }
        places = [pool.place_of(block) for block in range(pool.size)]
        found = [pool.find(*place, place[1] + 1) for place in places if place is not None]
        return tables, list(pool.free_queue()), places, found


def assert_same(one: Served, other: Served) -> None:
    for mine, yours in zip(one.log, other.log, strict=False):
        assert mine == yours
    if one.log and one.log[-1][0] < END - 100:
        assert len(one.log) == len(other.log)
        assert one.state() == other.state()


@given_traffic
@given(setup=setups(), requests=traffic(), data=st.data())
def test_decode_runs_are_single_steps(
    setup: Setup, requests: list[Request], data: st.DataObject
) -> None:
    several = Served(setup, requests, lambda: data.draw(st.integers(1, 40)))
    assert_same(several, Served(setup, requests))


class ByCells(DecodeClock):
    """A tick for every cell and block that is read."""

    def attention(self, group: int, cells: int, pairs: int, gathers: int) -> float:
        return to_seconds(cells + gathers)


class Spanned(Served):
    """Takes runs span by span where they can be, and compares that with arrays over steps."""

    def _several(self, plan: DecodeRun) -> None:
        assert self._longest_run is not None
        (usage,), reads = plan._foreseen_usage(), plan._foreseen_reads()
        taken = plan.priced(ByCells(0.0), 50 * self._longest_run())
        if taken is None:
            super()._several(plan)
            return
        assert taken.cells is not None
        spans = taken.spans
        each = np.repeat(spans.ticks, spans.counts)
        for group, loaded in zip(reads, taken.cells, strict=True):
            steps = np.repeat(loaded[: len(spans.counts)], spans.counts)
            assert (np.broadcast_to(group.cells, plan.steps)[: spans.steps] == steps).all()
        read = sum(np.broadcast_to(group.cells + group.gathers, plan.steps) for group in reads)
        assert (read[: spans.steps] == each).all()
        plan.apply(spans.steps)
        self.scheduler.schedule_run(spans.steps)
        (counts,), most = plan.occupied(spans)
        expected = [np.broadcast_to(count, plan.steps)[: spans.steps] for count in counts_of(usage)]
        assert list(counts) == [int(count @ each) for count in expected]
        assert most == int(expected[0].max()) * usage.cell_bytes
        self.policy.check_integrity()
        self.scheduler.update_run(spans.steps)
        self._at += spans.steps
        self.runs += 1


@given_traffic
@given(setup=setups(), requests=traffic(), data=st.data())
def test_spans_add_up_to_what_their_steps_do(
    setup: Setup, requests: list[Request], data: st.DataObject
) -> None:
    spanned = Spanned(setup, requests, lambda: data.draw(st.integers(1, 40)))
    if spanned._at < END - 100:
        assert spanned.state() == Served(setup, requests).state()


class AlwaysDue(Paged):
    """Has something to do for every decoding sequence at every step, or so it says."""

    def due_residues(self, seq: Sequence) -> range:
        return range(self.period)


class OneByOne(VllmScheduler):
    """Visits every running sequence at every step, as vLLM does."""

    def _schedule_running(self, step: Any) -> Any:
        return self._visit_all(step, 0, {}, self.options.max_batched_tokens)


@given_traffic
@given(setup=setups(), requests=traffic())
def test_visiting_those_that_are_due_is_visiting_all(setup: Setup, requests: list[Request]) -> None:
    everybody = Served(setup, requests, policy=AlwaysDue, scheduler=OneByOne)
    assert_same(Served(setup, requests), everybody)


@given_traffic
@given(setup=setups(), requests=traffic())
def test_private_branches_behave_like_any_that_nobody_shares(
    setup: Setup, requests: list[Request]
) -> None:
    told = [
        replace(
            request,
            path=tuple(
                (branch if branch >= 0 else 100_000 - branch, end)
                for branch, end in request.path or ((-1 - i, request.prompt + request.output),)
            ),
        )
        for i, request in enumerate(requests)
    ]
    private, public = Served(setup, requests), Served(setup, told)
    assert private.log == public.log
    assert private.state()[:2] == public.state()[:2]
