"""Prefill and decode on replicas of their own.

DistServe (Zhong et al., OSDI 2024) and Splitwise (Patel et al., ISCA 2024): a prefill replica
computes the prompt and the first token, K and V go over a link, a decode replica does the rest.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import simpy

from sim.budget import Budget
from sim.cluster.cluster import Cluster, Completed, Pool
from sim.cluster.merging import Row, Served
from sim.engine import Engine
from sim.forking import sequences_of
from sim.link import FairLink
from sim.model import LayerGroup
from sim.policies.base import HandedOver, Policy
from sim.step import Step
from workloads.request import Request


class Disaggregated(Cluster):
    """A pool for prompts before the pool that decodes, and one link between them.

    The decode replica is chosen when the prompt is done. Room there is found when K and V have
    arrived; what is under way takes no room at either end. The prefill replica gives the prompt's
    cells back when the prompt is done. Policies that save sequences in a form of their own
    (`Policy.hand_over`) save them there, and restore them at the other end. A request of several
    sequences is not split: a decode replica computes its prompt too.
    """

    def __init__(
        self, env: simpy.Environment, prefill: Pool, pool: Pool, link: FairLink, done: Completed
    ) -> None:
        self.prefill = prefill
        self.link = link
        super().__init__(pool, done)
        self._env = env
        self._saved: dict[int, HandedOver] = {}
        for engine in prefill.engines:
            engine.hooks.append(Saving(engine.policy, self._saved))
        self._whole: dict[int, Request] = {}
        self._begun: dict[int, Row] = {}

    @property
    def engines(self) -> list[Engine]:
        """Those for prompts first."""
        return self.prefill.engines + self.pool.engines

    def submit(self, request: Request) -> None:
        """Send a request that arrives now to a replica for prompts."""
        if sequences_of(request) > 1:
            super().submit(request)
            return
        self._whole[request.id] = request
        place = self.prefill.place(request)
        self.prefill.engines[place].submit(replace(request, output=1))

    def prompt_done(self, part: Request, at: float) -> None:
        """A replica for prompts has completed its part of a request, or given it up."""
        request, saved = self._whole.pop(part.id), self._saved.pop(part.id, None)
        engine = self.prefill.leave(request)
        recorder = self.engines[engine].recorder
        row = Row(engine, self._seen[engine])
        self._seen[engine] += 1
        if recorder.rows[row.line]["status"] == "failed" or request.output == 1:
            self.served.append(Served(row, None, request.output))
            self._on_completed(request, at)
            return
        self._begun[request.id] = row
        self._env.process(self._hand_over(request, saved))

    def completed(self, request: Request, at: float) -> None:
        """A decode replica has completed a request, or given it up."""
        self._note(len(self.prefill.engines) + self.pool.leave(request))
        self._on_completed(request, at)

    def _begin_of(self, request: int) -> Row | None:
        return self._begun.pop(request, None)

    def _hand_over(
        self, request: Request, saved: HandedOver | None
    ) -> Generator[simpy.Event, Any, None]:
        """Carry the prompt's K and V to a decode replica."""
        engine = self.pool.engines[self.pool.place(request)]
        budget = engine.policy.budget
        size = (
            prompt_bytes(budget, request.prompt) if saved is None else saved.bytes * budget.devices
        )
        yield from self.link.transfer(size)
        engine.submit(request, handed_over=True, state=saved)


class Saving:
    """Has sequences saved when their prompt is done and they have not left yet.

    saved: by request what was saved, which is added to.
    """

    def __init__(self, policy: Policy, saved: dict[int, HandedOver]) -> None:
        self._policy = policy
        self._saved = saved

    def before(self, step: Step) -> Generator[simpy.Event, Any, None]:
        """Nothing."""
        del step
        yield from ()

    def after(self, step: Step) -> None:
        """Save what leaves at the end of the step."""
        for seq, start, n in step.runs:
            if start + n >= seq.prompt:
                handed = self._policy.hand_over(seq)
                if handed is not None:
                    self._saved[seq.request.id] = handed


def prompt_bytes(budget: Budget, prompt: int) -> int:
    """Bytes of K, V and states that a sequence needs of its prompt to go on, on all devices.

    Of layers with a window only the window, of chunked ones only the chunk that is not complete.
    """
    groups = budget.model.groups()
    needed = sum(_needed(group, prompt, budget.cell_bytes_of(group)) for group in groups)
    return needed * budget.devices


def _needed(group: LayerGroup, prompt: int, cell_bytes: int) -> int:
    if group.kind == "recurrent":
        return group.state_bytes
    if group.kind == "swa":
        return cell_bytes * min(prompt, group.window - 1)
    return cell_bytes * (prompt % group.window if group.kind == "chunked" else prompt)
