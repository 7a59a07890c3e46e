"""The replica that has most of the prompt in its cache, unless loads drift apart."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

from sim.cluster.router import Load, Router, least_loaded
from workloads.plugins import option
from workloads.request import PrefixPath, Request


class PrefixAware(Router):
    """The rule of SGLang's router (``sgl-router``, policy ``cache_aware``).

    The router remembers the prompts that it sent to each replica. While the loads are balanced, a
    request goes to the replica that was sent most of its prompt, if that is more than
    ``threshold`` of it, and otherwise to the one that was sent the fewest different tokens. When
    the largest load exceeds the smallest by more than ``imbalance`` requests and by more than
    ``ratio`` times, the least loaded replica gets it. Here nothing is ever forgotten, while
    SGLang's router drops the least recently used prompts above a size.
    """

    name = "prefix-aware"

    @dataclass(frozen=True)
    class Options:
        """The defaults are those of ``sgl-router``."""

        threshold: float = option(0.3, "share of the prompt that has to match", low=0, high=1)
        imbalance: int = option(64, "requests by which loads may differ", low=0)
        ratio: float = option(1.5, "times by which loads may differ", low=1)

    options: Options

    def __init__(self, replicas: int, seed: int, options: Any = None) -> None:
        super().__init__(replicas, seed, options)
        self._sent: list[dict[int, int]] = [{} for _ in range(replicas)]
        """For each replica the branches that it was sent, and up to which end."""
        self._sizes = [0] * replicas
        """Different tokens that each replica was sent."""

    def choose(self, request: Request, loads: SequenceOf[Load]) -> int:
        """By prefix or by load; the prompt is remembered."""
        path = prompt_path(request)
        replica = self._chosen(request, path, loads)
        self._sizes[replica] += request.prompt - self._matched(path, replica)
        known = self._sent[replica]
        for branch, end in path:
            known[branch] = max(end, known.get(branch, 0))
        return replica

    def _chosen(self, request: Request, path: PrefixPath, loads: SequenceOf[Load]) -> int:
        options, everyone = self.options, range(self.replicas)
        outstanding = [load.requests for load in loads]
        least, most = min(outstanding), max(outstanding)
        if most - least > options.imbalance and most > options.ratio * least:
            return least_loaded(everyone, loads, "requests")
        matched = [self._matched(path, replica) for replica in everyone]
        best = max(everyone, key=lambda replica: (matched[replica], -replica))
        if matched[best] > options.threshold * request.prompt:
            return best
        return min(everyone, key=lambda replica: (self._sizes[replica], replica))

    def _matched(self, path: PrefixPath, replica: int) -> int:
        """Leading tokens of the prompt that the replica was sent before."""
        known, matched = self._sent[replica], 0
        for branch, end in path:
            reached = known.get(branch, 0)
            matched = max(matched, min(end, reached))
            if reached < end:
                break
        return matched


def prompt_path(request: Request) -> PrefixPath:
    """The part of the request's path that reaches over its prompt; empty without one."""
    kept: list[tuple[int, int]] = []
    for branch, end in request.path or ():
        kept.append((branch, min(end, request.prompt)))
        if end >= request.prompt:
            break
    return tuple(kept)
