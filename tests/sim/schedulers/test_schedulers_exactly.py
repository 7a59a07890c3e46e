"""Every scheduler over every policy it takes: decode runs against single steps, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_clocks import CrookedTime

from sim.metrics import Objectives, request_columns, summary_of, timeline_columns
from sim.plugins import policy_of, scheduler_of
from sim.simulation import Simulation
from workloads.request import Request, Traffic, Workload

LLAMA = [
    ("ring", "full", {}),
    ("ring", "full", {"slots": "contiguous"}),
    ("ring", "full", {"streams": "per-sequence"}),
    ("iswa", "windowed", {"ubatch": 32}),
    ("iswa", "chunked", {"streams": "per-sequence"}),
]
ANY = [
    *LLAMA,
    ("none", "windowed", {}),
    ("contiguous", "full", {}),
    ("contiguous", "full", {"reserve": "exact", "compaction": True}),
    ("paged", "full", {}),
    ("paged", "windowed", {"block_size": 4}),
    ("radix", "full", {}),
]
CASES: list[tuple[str, dict[str, Any], list[tuple[str, str, dict[str, Any]]]]] = [
    ("llama-server", {}, LLAMA),
    ("llama-server", {"cache_idle_slots": False, "ctx_checkpoints": 2}, LLAMA),
    ("llama-server", {"context_shift": True, "cache_ram": 0}, LLAMA[:3]),
    (
        "llama-server",
        {"context_shift": True, "shift_by": "reprefill", "cache_ram": 0},
        LLAMA[:3],
    ),
    ("static", {}, ANY),
    ("static", {"max_seqs": 2}, ANY),
    ("orca", {}, ANY),
    ("orca", {"reserve": "max"}, ANY),
    ("fcfs-no-chunk", {"max_batched_tokens": 160}, ANY),
    ("sglang", {}, ANY),
    ("sglang", {"order": "fcfs", "conservativeness": 0.1}, ANY),
    ("slo", {"ttft_s": {"default": 0.1, "batch": 10.0}}, ANY),
]
PAIRS = [(name, options, *policy) for name, options, policies in CASES for policy in policies]


@dataclass
class Listed(Workload):
    requests: list[Request]
    name = "listed"

    def traffic(self):
        return ListedTraffic([Request(**_fields(r)) for r in self.requests])


def _fields(request: Request) -> dict[str, Any]:
    return {
        name: getattr(request, name) for name in ("id", "arrival", "prompt", "output", "path")
    } | {
        "conversation": request.conversation,
        "samples": request.samples,
        "slo_class": request.slo_class,
    }


class ListedTraffic(Traffic):
    def __init__(self, requests: list[Request]) -> None:
        self._requests = requests

    def arrivals(self) -> Iterator[Request]:
        return iter(self._requests)


@st.composite
def conversations(draw: st.DrawFn) -> list[Request]:
    """Requests that go on from earlier ones, or branch off from them."""
    requests: list[Request] = []
    times = sorted(draw(st.lists(st.floats(0, 1.0), min_size=1, max_size=10)))
    for number, arrival in enumerate(times):
        prompt, output = draw(st.integers(1, 150)), draw(st.integers(1, 60))
        path: tuple[tuple[int, int], ...] = ((number, prompt + output),)
        conversation = number
        if requests and draw(st.booleans()):
            before = draw(st.sampled_from(requests))
            assert before.path is not None and before.conversation is not None
            shared = draw(st.integers(1, before.path[-1][1]))
            prompt = shared + draw(st.integers(0, 60))
            kept = tuple((branch, end) for branch, end in before.path if end < shared)
            branch = next(branch for branch, end in before.path if end >= shared)
            path = (*kept, (branch, shared), (number, prompt + output))
            conversation = before.conversation
        requests.append(
            Request(
                number,
                arrival,
                prompt,
                output,
                path,
                conversation,
                samples=draw(st.sampled_from([1, 1, 1, 3])),
                slo_class=draw(st.sampled_from(["default", "batch"])),
            )
        )
    return requests


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PAIRS), conversations(), st.sampled_from([500, 3000]))
def test_runs_of_steps_give_the_same_bits_as_single_steps(budget_of, pair, requests, tokens):
    scheduler, options, policy, kind, layout = pair
    results = []
    for exact_steps in (False, True):
        cache = policy_of(
            policy, budget_of(kind, tokens=max(tokens, 1600 * bool(layout.get("streams")))), layout
        )
        chosen = scheduler_of(scheduler, cache, options)
        recorder = (
            Simulation(
                Listed(requests),
                cache,
                chosen,
                CrookedTime(swap_s=0.002),
                exact_steps=exact_steps,
                with_maps=True,
            )
            .run()
            .recorder
        )
        cache.check_integrity()
        columns = request_columns(recorder)
        summary = summary_of(recorder, columns, {"default": Objectives()})
        results.append(
            repr((columns, summary, timeline_columns(recorder), sorted(chosen.counts.items())))
        )
        assert len(set(recorder.rows.column("request"))) == len(requests)
    assert results[0] == results[1]
