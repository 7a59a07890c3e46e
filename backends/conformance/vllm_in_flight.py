"""A recorded vLLM engine with two steps in flight, replayed step by step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from backends.conformance.recording import Record
from backends.conformance.vllm_setup import Requests, policy_of, scheduler_of
from backends.conformance.vllm_trace import Difference
from sim.schedulers.vllm_async import AsyncVllmScheduler

_COMPARED = ("runs", "preempted")


class InFlight:
    """The recorded engine's counterpart, driven by the recorded arrivals.

    Ours decides a step when it begins, vLLM's when the one before it began: caches and queues are
    not the same between two steps, but what is decided is.
    """

    def __init__(self, header: Record, requests: Iterable[Record]) -> None:
        records = list(requests)
        self._requests = Requests(records)
        self._policy = policy_of(header["config"])
        scheduler = scheduler_of(header["config"], self._policy)
        assert isinstance(scheduler, AsyncVllmScheduler)
        self._scheduler = scheduler
        self._to_come = deque(records)
        self._ended = self._preemptions = 0

    def run(self, record: Record) -> Difference | None:
        """Take the next step with tokens; the first difference, if there is any."""
        try:
            ours = self._next_step()
        except Exception as error:  # whatever breaks down in our objects is a difference
            return "the step itself", "done", f"{type(error).__name__}: {error}"
        for field in _COMPARED:
            if ours.get(field) != record[field]:
                return field, record[field], ours.get(field)
        return None

    def check_end(self, record: Record) -> Difference | None:
        """Nothing is left to do, and as often as recorded somebody was preempted."""
        if self._next_step():
            return "the end", record["end"], "one more step"
        if self._preemptions != record["preemptions"]:
            return "preemptions", record["preemptions"], self._preemptions
        return None

    def _next_step(self) -> Record:
        """What a recorded step says; nothing if there is no further step with tokens."""
        preempted: list[str] = []
        names = self._requests.names
        while self._scheduler.has_work or self._to_come:
            self._let_come()
            step = self._scheduler.schedule()
            gone = [*step.preempted, *self._scheduler.overtaken]
            preempted += sorted(names[seq.id] for seq in gone)
            self._preemptions += len(gone)
            runs = [[names[seq.id], start, n] for seq, start, n in step.runs]
            self._policy.settle(step)
            self._scheduler.update(step)
            if runs:
                self._ended += 1
                return {"runs": runs, "preempted": preempted}
        return {}

    def _let_come(self) -> None:
        if not self._scheduler.has_work:
            self._ended = max(self._ended, self._to_come[0]["arrival"])
        while self._to_come and self._to_come[0]["arrival"] <= self._ended:
            self._scheduler.add(self._requests.by_name[self._to_come.popleft()["id"]])
