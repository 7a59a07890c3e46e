"""Who is preempted: the choice is made among all that run, and decode runs change nothing."""

import pytest

from kvlab.config import RunConfig
from kvlab.running import run
from reports.metrics import VOLATILE
from sim.budget import Budget
from sim.model_files.lookup import model_of
from sim.plugins import policy_of, scheduler_of
from sim.sequence import Sequence
from workloads.errors import InputError
from workloads.request import Request

VICTIMS = ("last", "least-computed", "most-computed", "random")
LENGTHS = {"prompt": "uniform:low=20,high=300", "output": "uniform:low=100,high=500"}


def config(victim, **more):
    return RunConfig(
        policy="paged",
        policy_options={"reserve_full_isl": False, "prefix_cache": False},
        workload="batch",
        requests=25,
        kv_tokens=2048,
        max_seqs=12,
        scheduler="vllm-victims" if victim else "vllm",
        scheduler_options={"victim": victim} if victim else {},
        workload_options={
            "prompt": "uniform:low=20,high=300",
            "output": "uniform:low=100,high=500",
        },
        **more,
    )


@pytest.mark.parametrize("victim", VICTIMS)
def test_decode_runs_equal_single_steps(victim):
    once, single = (run(config(victim, exact_steps=exact)) for exact in (False, True))
    assert once.summary["preemptions"] > 5
    left = {k: v for k, v in once.summary.items() if k not in VOLATILE}
    assert left == {k: v for k, v in single.summary.items() if k not in VOLATILE}
    assert once.requests.equals(single.requests)
    assert once.summary["requests_completed"] == 25


def test_the_last_is_what_vllm_does_and_others_are_something_else():
    found = {victim: run(config(victim)).summary for victim in VICTIMS}
    plain = run(config(None)).summary
    assert found["last"]["makespan_s"] == plain["makespan_s"]
    assert found["last"]["recomputed_tokens"] == plain["recomputed_tokens"]
    assert len({summary["recomputed_tokens"] for summary in found.values()}) == 4
    taxes = {v: s["recomputed_tokens"] / s["preemptions"] for v, s in found.items()}
    assert taxes["most-computed"] == max(taxes.values())
    assert taxes["least-computed"] == min(taxes.values())


@pytest.mark.parametrize(
    ("victim", "expected"), [("last", 3), ("least-computed", 3), ("most-computed", 1)]
)
def test_the_victim_is_the_one_that_the_option_says(victim, expected):
    model = model_of("llama-3.1-8b")
    budget = Budget(model, bytes=4096 * model.token_bytes(), max_seqs=4)
    scheduler = scheduler_of("vllm-victims", policy_of("paged", budget), {"victim": victim})
    for number, prompt in enumerate((200, 900, 100, 100)):
        scheduler.add(Sequence(number, Request(number, 0.0, prompt, 50)))
    scheduler.update(scheduler.schedule())
    assert scheduler._victim().id == expected


def test_priorities_say_themselves_who_goes():
    model = model_of("llama-3.1-8b")
    policy = policy_of("paged", Budget(model, bytes=4096 * model.token_bytes()))
    with pytest.raises(InputError, match="expected fcfs"):
        scheduler_of("vllm-victims", policy, {"policy": "priority", "victim": "random"})
