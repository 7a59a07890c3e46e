"""llama-server's slots, checkpoints and host cache, with every cell watched."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.checking import CheckedRun
from sim.plugins import policy_of, scheduler_of
from workloads.request import Request

VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("ring", "full", {}),
    ("ring", "full", {"slots": "contiguous", "ubatch": 24}),
    ("ring", "full", {"streams": "per-sequence"}),
    ("iswa", "windowed", {"ubatch": 24}),
    ("iswa", "windowed", {"swa_full": True, "strict": True}),
    ("iswa", "windowed", {"streams": "per-sequence", "ubatch": 16}),
    ("iswa", "chunked", {"ubatch": 24}),
]


@st.composite
def conversations(draw: st.DrawFn) -> list[Request]:
    """Turns of a few conversations: they go on, are asked again, or are changed halfway."""
    requests: list[Request] = []
    arrival = 0
    for number in range(draw(st.integers(1, 12))):
        arrival += draw(st.integers(0, 40))
        prompt, output = draw(st.integers(1, 150)), draw(st.integers(1, 30))
        path: tuple[tuple[int, int], ...] = ((number, prompt + output),)
        conversation, turn = number, 0
        if requests and draw(st.booleans()):
            before = draw(st.sampled_from(requests))
            assert before.path is not None and before.conversation is not None
            shared = draw(st.integers(1, before.path[-1][1]))
            prompt = shared + draw(st.integers(0, 60))
            kept = tuple((branch, end) for branch, end in before.path if end < shared)
            branch = next(branch for branch, end in before.path if end >= shared)
            path = (*kept, (branch, shared), (number, prompt + output))
            conversation, turn = before.conversation, before.turn + 1
        requests.append(Request(number, float(arrival), prompt, output, path, conversation, turn))
    return requests


schedules = st.fixed_dictionaries(
    {},
    optional={
        "n_parallel": st.sampled_from([1, 2, 6]),
        "n_batch": st.sampled_from([16, 64]),
        "slot_prompt_similarity": st.sampled_from([0.0, 0.5]),
        "cache_prompt": st.just(False),
        "ctx_checkpoints": st.sampled_from([0, 1, 3]),
        "checkpoint_min_step": st.sampled_from([0, 40]),
        "cache_ram": st.sampled_from([0, 1, -1]),
        "cache_idle_slots": st.just(False),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(VARIANTS), conversations(), schedules, st.integers(1, 40))
def test_every_slot_finds_its_own_tokens(budget_of, variant, requests, schedule, longest):
    name, kind, options = variant
    tokens = 2048 if options.get("streams") else 700
    policy = policy_of(name, budget_of(kind, tokens=tokens, max_model_len=2000), options)
    scheduler = scheduler_of("llama-server", policy, schedule)
    run = CheckedRun(policy, longest_run=lambda: longest, scheduler=scheduler)
    run.serve(requests)
    served = [r for r in requests if r.prompt < scheduler.context_size]
    assert len(run.finished) + len(run.failed) == len(served)
