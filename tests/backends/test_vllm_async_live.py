"""`vllm-async` against vLLM's own asynchronous scheduler, where vLLM is installed.

The engine's loop keeps two steps in flight (``EngineCore.step_with_batch_queue``). Both sides get
the same requests when the same number of steps has ended, and must schedule the same in every
step. Without a prefix cache: with one, what a preempted sequence finds of itself may differ by a
block, since vLLM tells the cache of generated tokens one step later.
"""

from __future__ import annotations

import importlib.util
from collections import Counter, deque
from random import Random

import pytest

from backends.conformance.vllm_setup import Requests, policy_of
from backends.vllm_recorder.configs import draw_config
from backends.vllm_recorder.engine import Engine
from backends.vllm_recorder.traffic import draw_requests
from sim.schedulers.vllm import VllmScheduler
from sim.schedulers.vllm_async import AsyncVllmScheduler

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)
SEEDS = range(12)


def engine_steps(config, records, monkeypatch):
    """What vLLM schedules in every step with tokens, and how often it preempts."""
    from vllm.v1.core.sched import scheduler as module
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.outputs import ModelRunnerOutput

    monkeypatch.setattr(module, "Scheduler", AsyncScheduler)
    engine = Engine(config, log_stats=False)
    scheduler = engine.scheduler
    assert isinstance(scheduler, AsyncScheduler)
    outputs = {record["id"]: record["output"] for record in records}
    to_come, flying, sampled = deque(records), deque(), Counter()
    steps, preemptions, ended = [], 0, 0
    while to_come or flying or scheduler.get_num_unfinished_requests():
        if not flying and not scheduler.get_num_unfinished_requests():
            ended = max(ended, to_come[0]["arrival"])
        while to_come and to_come[0]["arrival"] <= ended:
            engine.add(to_come.popleft())
        if scheduler.has_requests():
            output = scheduler.schedule()
            preemptions += len(output.preempted_req_ids)
            tokens = {}
            for name in output.num_scheduled_tokens:
                tokens[name] = []
                if not scheduler.requests[name].is_prefill_chunk:
                    tokens[name] = [outputs[name][0][0] + sampled[name]]
                    sampled[name] += 1
            flying.append((output, tokens))
            if tokens:
                steps.append(sorted(output.num_scheduled_tokens.items()))
                if len(flying) < 2:
                    continue
        output, tokens = flying.popleft()
        ended += bool(tokens)
        names = list(tokens)
        made = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=[tokens[name] for name in names],
        )
        scheduler.update_from_output(output, made)
    return steps, preemptions


def our_steps(config, records):
    requests = Requests(records)
    policy = policy_of(config)
    limits = VllmScheduler.Options(
        max_seqs=config["max_num_seqs"],
        max_batched_tokens=config["max_num_batched_tokens"],
        max_model_len=config["max_model_len"],
        long_prefill_threshold=config["long_prefill_token_threshold"],
        chunked_prefill=config["enable_chunked_prefill"],
    )
    scheduler = AsyncVllmScheduler(policy, limits)
    to_come, steps, ended = deque(records), [], 0
    while to_come or scheduler.has_work:
        if not scheduler.has_work:
            ended = max(ended, to_come[0]["arrival"])
        while to_come and to_come[0]["arrival"] <= ended:
            scheduler.add(requests.by_name[to_come.popleft()["id"]])
        step = scheduler.schedule()
        if scheduled := sorted((requests.names[run.seq.id], run.n) for run in step.runs):
            steps.append(scheduled)
            ended += 1
        policy.settle(step)
        scheduler.update(step)
    return steps


@pytest.mark.parametrize("kind", ["full_nocache", "preempt"])
def test_the_engine_with_two_steps_in_flight_schedules_the_same(kind, monkeypatch):
    preempted = 0
    for seed in SEEDS:
        rng = Random(f"{kind} {seed}")
        config = draw_config(rng, kind) | {"enable_prefix_caching": False}
        records = draw_requests(rng, config, kind)
        expected, preemptions = engine_steps(config, records, monkeypatch)
        assert our_steps(config, records) == expected, seed
        preempted += preemptions
    if kind == "preempt":
        assert preempted > 20
