"""vLLM's asynchronous scheduler with two steps in flight, as its engine keeps them.

``EngineCore.step_with_batch_queue``: what a step samples is taken in when the step after the next
was decided. Requests come when as many steps with tokens have ended as their arrival says.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from backends.conformance.recording import Record
from backends.vllm_recorder.engine import Engine, Watch
from backends.vllm_recorder.traffic import expanded


class InFlightRecorder:
    """One recording. end, totals: good once `steps` is through."""

    def __init__(self, config: Record, requests: list[Record]) -> None:
        self.end = "drained"
        self.totals = {"steps": 0, "preemptions": 0}
        self._most = config["in_flight"]
        self._engine = Engine(config, log_stats=False)
        self._watch = Watch(self._engine)
        self._outputs = {record["id"]: expanded(record["output"]) for record in requests}
        self._to_come = deque(requests)
        self._sampled: Counter[str] = Counter()
        self._flying: deque[Any] = deque()
        self._ended = 0

    def steps(self) -> Iterator[Record]:
        """A record for every step with tokens: who got how many after how many, who was preempted.

        Preemptions in steps without tokens are told with the next step.
        """
        engine, scheduler = self._engine, self._engine.scheduler
        preempted: list[str] = []
        while self._to_come or self._flying or engine.has_requests:
            self._let_come()
            if scheduler.has_requests():
                output = scheduler.schedule()
                self._flying.append((output, self._tokens_of(output)))
                preempted += sorted(self._watch.take()["preempted"])
                if output.num_scheduled_tokens:
                    yield self._record(output, preempted)
                    preempted = []
                    if len(self._flying) < self._most:
                        continue
            self._land()

    def _let_come(self) -> None:
        if not self._flying and not self._engine.has_requests:
            self._ended = max(self._ended, self._to_come[0]["arrival"])
        while self._to_come and self._to_come[0]["arrival"] <= self._ended:
            self._engine.add(self._to_come.popleft())

    def _record(self, output: Any, preempted: list[str]) -> Record:
        cached = output.scheduled_cached_reqs
        starts = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        starts |= {each.req_id: each.num_computed_tokens for each in output.scheduled_new_reqs}
        self.totals["steps"] += 1
        self.totals["preemptions"] += len(preempted)
        return {
            "type": "step",
            "step": self.totals["steps"] - 1,
            "runs": [[name, starts[name], n] for name, n in output.num_scheduled_tokens.items()],
            "preempted": preempted,
        }

    def _tokens_of(self, output: Any) -> list[list[int]]:
        """What the step will sample: a token for everybody whose tokens are all computed then."""
        tokens: list[list[int]] = []
        for name in output.num_scheduled_tokens:
            if self._engine.scheduler.requests[name].is_prefill_chunk:
                tokens.append([])
            else:
                tokens.append([self._outputs[name][self._sampled[name]]])
                self._sampled[name] += 1
        return tokens

    def _land(self) -> None:
        """The oldest step in flight ends."""
        from vllm.v1.outputs import ModelRunnerOutput

        output, tokens = self._flying.popleft()
        names = list(output.num_scheduled_tokens)
        self._ended += bool(names)
        made = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=tokens,
        )
        self._engine.scheduler.update_from_output(output, made)
