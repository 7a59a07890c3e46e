"""The recorder of vLLM: what it draws, and, where vLLM is installed, what the engine says to it."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.conformance.check import check
from backends.conformance.vllm_setup import Requests, policy_of, scheduler_of
from backends.vllm_recorder.configs import KINDS, draw_config, longest_of
from backends.vllm_recorder.engine import require_vllm
from backends.vllm_recorder.traffic import draw_aborts, draw_requests, expanded, first_of
from workloads.errors import InputError

has_vllm = importlib.util.find_spec("vllm") is not None
DRAWS = st.tuples(st.sampled_from(KINDS), st.integers(0, 10**6))


def drawn(kind, seed):
    rng = Random(seed)
    config = draw_config(rng, kind)
    requests = draw_requests(rng, config, kind)
    return config, requests, draw_aborts(rng, requests, kind)


def length(runs):
    return sum(n for _, n in runs)


@settings(max_examples=80, deadline=None)
@given(DRAWS)
def test_what_is_drawn_is_what_the_format_allows(draw):
    kind, _ = draw
    config, requests, aborts = drawn(*draw)
    assert (config, requests, aborts) == drawn(*draw)
    sizes = [group["block_size"] for group in config["groups"]]
    smallest = config["block_size"]
    assert all(size % smallest == 0 for size in sizes)
    # vLLM wants groups that differ where there are several.
    groups = config["groups"]
    assert len(groups) == 1 or any(group != groups[0] for group in groups)
    assert config["enable_chunked_prefill"] or (
        config["max_num_batched_tokens"] >= config["max_model_len"]
    )
    assert [r["arrival"] for r in requests] == sorted(r["arrival"] for r in requests)
    for number, request in enumerate(requests):
        assert request["id"] == f"r{number}" and request["max_tokens"] >= 1
        assert length(request["output"]) == request["max_tokens"]
        assert 1 <= length(request["prompt"]) < config["max_model_len"]
        assert len(expanded(request["prompt"])) == length(request["prompt"])
    assert bool(aborts) == (kind == "abort") and aborts == sorted(aborts)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 9))), st.integers(0, 40))
def test_the_first_tokens_of_runs_are_their_first_tokens(runs, n):
    assert expanded(first_of([list(run) for run in runs], n)) == expanded(runs)[:n]


@settings(max_examples=60, deadline=None)
@given(DRAWS)
def test_the_longest_sequence_just_fits(draw):
    config = draw_config(Random(draw[1]), draw[0])
    longest, usable = longest_of(config), config["num_blocks"] - 1
    sizes = [group["block_size"] for group in config["groups"]]
    assert sum(-(-longest // size) for size in sizes) <= usable
    if longest < config["max_model_len"]:
        assert sum(-(-(longest + 1) // size) for size in sizes) > usable


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("stall", "big")])
def test_most_requests_of_every_kind_share_a_prefix_or_a_pool_and_are_served(kind):
    """Our scheduler serves the traffic to its end, so that a recording is not one long wait."""
    served = steps = 0
    for seed in range(4):
        config, records, _ = drawn(kind, seed)
        requests = Requests(records)
        policy = policy_of(config)
        scheduler = scheduler_of(config, policy)
        arrivals = [*requests.arrivals, (10**9, None)]
        for (at, seq), (until, _) in pairwise(arrivals):
            scheduler.add(seq)
            for _ in range(min(until - at, 600)):
                if not scheduler.has_work:
                    break
                step = scheduler.schedule()
                policy.settle(step)
                served += len(scheduler.update(step))
                steps += 1
    assert served >= 20 and steps >= 50


def test_without_vllm_one_line_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(InputError, match="needs vLLM in this Python"):
        require_vllm()


@pytest.mark.skipif(not has_vllm, reason="vLLM is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_recording_of_the_live_engine_is_replayed_without_a_difference(tmp_path, kind):
    from secrets import randbelow

    from backends.vllm_recorder.trace import record

    path, steps = record(kind, randbelow(10**6), 0, tmp_path)
    assert steps > 0
    report = check([path])
    assert not report.mismatches, report.first


@pytest.mark.skipif(not has_vllm, reason="vLLM is not installed")
def test_equal_seeds_make_equal_files(tmp_path):
    from backends.vllm_recorder.trace import record

    one, other = (record("preempt", 5, 1, tmp_path / name)[0] for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()
