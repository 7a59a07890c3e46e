"""One recorded vLLM engine, replayed step by step."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from backends.conformance.recording import Record
from backends.conformance.vllm_setup import RecordedDrafts, Requests, policy_of, scheduler_of
from sim.policies.paged import Paged
from sim.schedulers.vllm import GATE
from sim.sequence import Sequence
from sim.step import Step

Difference = tuple[str, Any, Any]
"""What was compared, the engine's value and ours."""

_INPUTS = {"type", "step", "add", "abort", "idle"}
_FULL_TABLES_EVERY = 50


class ObservedPaged(Paged):
    """Our policy, which writes down what it is asked about the prefix cache."""

    lookups: list[tuple[Sequence, int, int]]

    def lookup(self, seq: Sequence) -> int:
        """As ever, and noted."""
        hit = super().lookup(seq)
        self.lookups.append((seq, seq.tokens, hit))
        return hit


class Trace:
    """The recorded engine's counterpart, driven by the recorded arrivals and aborts."""

    def __init__(self, header: Record, requests: Iterable[Record]) -> None:
        config = header["config"]
        self._requests = Requests(requests)
        self._names = self._requests.names
        self._ids = {name: number for number, name in self._names.items()}
        policy = policy_of(config, ObservedPaged)
        assert isinstance(policy, ObservedPaged)
        policy.lookups = []
        self._policy = policy
        self._pool = policy.manager.pool
        self._pool.evicted = []
        self._scheduler = scheduler_of(config, policy)
        self._caching = config["enable_prefix_caching"]
        self._lengths: dict[int, list[int]] = {}
        self.totals: Counter[str] = Counter()

    def run(self, record: Record) -> Difference | None:
        """Do one recorded step; the first difference, if there is any."""
        for name in record["add"]:
            self._scheduler.add(self._requests.by_name[name])
        for name in record["abort"]:
            self._scheduler.abort(self._requests.by_name[name])
        try:
            ours = {"free": self._pool.free} if record.get("idle") else self._step(record)
        except Exception as error:  # whatever breaks down in our objects is a difference
            return "the step itself", "done", f"{type(error).__name__}: {error}"
        for field, recorded in record.items():
            if field in _INPUTS:
                continue
            if field not in ours:
                return field, recorded, None
            if ours[field] != recorded:
                return field, recorded, ours[field]
        return None

    def _step(self, record: Record) -> Record:
        drafts = self._scheduler.speculation
        if isinstance(drafts, RecordedDrafts):
            drafts.tell(record, self._ids)
        step = self._scheduler.schedule()
        ours = self._scheduled(step, record)
        self._policy.commit(step)
        ours["sampled"] = list(self._sampled(step))
        finished = self._scheduler.update(step)
        ours["finished"] = [[self._names[seq.id], "length"] for seq in finished]
        self._count(ours)
        self.totals["aborted"] += len(record["abort"])
        return ours | self._state(record)

    def _sampled(self, step: Step) -> Iterator[list[Any]]:
        """The token that every sequence gets which has computed all, and those before it."""
        for seq, start, n in step.runs:
            if start + n < seq.tokens:
                continue
            draft = (step.drafts or {}).get(seq.id)
            first, output = seq.tokens - seq.prompt, self._requests.outputs[seq.id]
            for index in range(first, first + 1 + (draft.accepted if draft else 0)):
                yield [self._names[seq.id], output.token(index)]

    def _scheduled(self, step: Step, record: Record) -> Record:
        """What can be seen after ``schedule()``."""
        names, manager = self._names, self._policy.manager
        running = list(self._scheduler.running)
        tables = {
            names[seq.id]: [list(t.blocks) for t in manager.holdings[seq.id].tables]
            for seq in running
        }
        ours: Record = {
            "sched": [[names[run.seq.id], run.n] for run in step.runs],
            "new": [[names[seq.id], seq.hit] for seq in step.admitted],
            "resumed": [
                [names[run.seq.id], run.start] for run in step.runs if run.seq in step.resumed
            ],
            "preempted": [names[seq.id] for seq in step.preempted],
            "refused": [
                [names[seq.id], "full_isl" if reason == GATE else reason]
                for seq, reason in step.refused
            ],
            "lookups": [[names[seq.id], n, hit] for seq, n, hit in self._policy.lookups],
            "stats": self._stats(),
            "evicted": self._pool.evicted,
            "new_blocks": self._new_blocks(step),
            "computed": {names[seq.id]: seq.computed for seq in running},
            "common_prefix": manager.common_prefix(running[0].id)
            if running
            else [0] * len(manager.groups),
            "free_mid": self._pool.free,
        }
        if step.drafts is not None:
            made = step.drafts.values()
            ours["verified"] = [
                len(made),
                sum(d.drafted for d in made),
                sum(d.accepted for d in made),
            ]
        if "tables" in record:
            ours["tables"] = tables
        if "tables_crc" in record:
            ours["tables_crc"] = {
                name: [_crc(blocks) for blocks in groups] for name, groups in tables.items()
            }
        self._policy.lookups = []
        self._pool.evicted = []
        return ours

    def _new_blocks(self, step: Step) -> Record:
        """Per scheduled sequence and group, entries that its table did not have before the step."""
        told: Record = {}
        before, self._lengths = self._lengths, {}
        arrived = {seq.id for seq in (*step.admitted, *step.resumed)}
        for seq in self._scheduler.running:
            tables = self._policy.manager.holdings[seq.id].tables
            self._lengths[seq.id] = [len(table.blocks) for table in tables]
        for run in step.runs:
            seq = run.seq
            known = before[seq.id] if seq.id not in arrived else [0] * len(self._lengths[seq.id])
            tables = self._policy.manager.holdings[seq.id].tables
            new = [table.blocks[n:] for table, n in zip(tables, known, strict=True)]
            told[self._names[seq.id]] = new if any(new) or seq.id in arrived else None
        return told

    def _stats(self) -> list[int]:
        """Requests, tokens asked for and tokens hit; the same of sequences once preempted."""
        stats = [0] * 6
        if self._caching:
            for seq, n, hit in self._policy.lookups:
                if not seq.reads_cache:
                    continue
                first = 3 if seq.preemptions else 0
                stats[first] += 1
                stats[first + 1] += n
                stats[first + 2] += hit
        return stats

    def _state(self, record: Record) -> Record:
        """What can be seen after ``update_from_output()``."""
        pool, names = self._pool, self._names
        queue = list(pool.free_queue())
        ours: Record = {
            "running": [names[seq.id] for seq in self._scheduler.running],
            "waiting": [names[seq.id] for seq in self._scheduler.waiting],
            "free": pool.free,
            "usage": round(1 - pool.free / (pool.size - 1), 9),
            "free_crc": _crc(queue),
            "cached_blocks": pool.cached_blocks,
            "cached_keys": pool.cached_keys,
        }
        if self._scheduler.speculation is not None:
            running = self._scheduler.running
            ours["drafts"] = {names[seq.id]: seq.drafts for seq in running if seq.drafts}
        if "free_queue" in record:
            ours["free_queue"] = queue
        return ours

    def _count(self, ours: Record) -> None:
        totals, used = self.totals, self._pool.size - 1 - ours["free_mid"]
        totals["steps"] += 1
        totals["scheduled_tokens"] += sum(n for _, n in ours["sched"])
        totals["sampled_tokens"] += len(ours["sampled"])
        totals["preemptions"] += len(ours["preempted"])
        totals["finished"] += len(ours["finished"])
        totals["evictions"] += len(ours["evicted"])
        totals["query_tokens"] += ours["stats"][1] + ours["stats"][4]
        totals["hit_tokens"] += sum(hit for _, hit in (*ours["new"], *ours["resumed"]))
        for _, reason in ours["refused"]:
            totals[f"refused_{reason}"] += 1
        totals["max_used_blocks"] = max(totals["max_used_blocks"], used)
        totals["max_running"] = max(totals["max_running"], len(ours["computed"]))

    def check_end(self, record: Record) -> Difference | None:
        """Whether the totals agree."""
        for field, recorded in record.items():
            if field not in ("type", "end") and self.totals[field] != recorded:
                return field, recorded, self.totals[field]
        return None


def _crc(blocks: list[int]) -> int:
    return zlib.crc32(",".join(map(str, blocks)).encode())
