"""A recorded run without looking at every step: how fast our scheduler and policy do it.

Only the requests and the times at which they came and were aborted are read. Steps in which
nothing but counters moves are taken at once, as the simulator takes them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from backends.conformance.recording import Record, read_records
from backends.conformance.vllm_setup import Requests, policy_of, scheduler_of
from sim.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Timed:
    """steps: engine steps done. singly: of those one at a time. cpu_s: CPU seconds they took.

    finished: ids in the order in which they finished. free_queue: blocks, next first, at the end.
    """

    steps: int
    singly: int
    cpu_s: float
    finished: tuple[str, ...]
    free_queue: tuple[int, ...]


def replay_timed(path: Path, leap: bool = True) -> Timed:
    """Replay one recording as fast as we can; without ``leap`` every step is taken singly."""
    header, requests, events, idle = _read(path)
    known = Requests(requests)
    policy = policy_of(header["config"])
    scheduler = scheduler_of(header["config"], policy)
    script = [
        (at, [[known.by_name[name] for name in names] for names in events[at]])
        for at in sorted(events)
    ]
    finished: list[Sequence] = []
    steps = singly = 0
    before = time.process_time()
    for (at, (joining, leaving)), (until, _) in pairwise(script):
        for seq in joining:
            scheduler.add(seq)
        for seq in leaving:
            scheduler.abort(seq)
        if at in idle:
            at += 1
        while at < until and scheduler.has_work:
            n = min(scheduler.steady_steps(), until - at) if leap else 0
            plan = policy.plan_run(scheduler.batch, n) if n else None
            if plan is not None:
                plan.apply(plan.steps)
                scheduler.schedule_run(plan.steps)
                finished += scheduler.update_run(plan.steps)
                steps += plan.steps
                at += plan.steps
            else:
                step = scheduler.schedule()
                policy.settle(step)
                finished += scheduler.update(step)
                singly += 1
                at += 1
    spent = time.process_time() - before
    return Timed(
        steps + singly,
        singly,
        spent,
        tuple(known.names[seq.id] for seq in finished),
        tuple(policy.manager.pool.free_queue()),
    )


Events = dict[int, tuple[list[str], list[str]]]


def _read(path: Path) -> tuple[Record, list[Record], Events, set[int]]:
    """Header, requests, who comes and goes at which step, and steps that were not scheduled."""
    header: Record = {}
    requests: list[Record] = []
    events: Events = defaultdict(lambda: ([], []))
    idle = set()
    last = 0
    for _, record in read_records(path):
        if record["type"] == "trace":
            header = record
        elif record["type"] == "req":
            requests.append(record)
        elif record["type"] == "step":
            last = record["step"]
            if record["add"] or record["abort"]:
                events[last] = (record["add"], record["abort"])
            if record.get("idle"):
                idle.add(last)
    events[last + 1] = ([], [])
    return header, requests, events, idle
