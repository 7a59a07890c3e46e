"""Recordings of vLLM's asynchronous scheduler: every step is ours, and every rule is needed.

Where vLLM is installed, new ones are made and replayed too.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from secrets import randbelow

import pytest

from backends.conformance.vllm import replay
from backends.vllm_recorder.configs import IN_FLIGHT_KINDS
from sim.policies.paged import Paged
from sim.schedulers.vllm import VllmScheduler
from sim.schedulers.vllm_async import AsyncVllmScheduler

RECORDINGS = sorted((Path(__file__).parent / "recordings/vllm_async").glob("*.jsonl.gz"))
has_vllm = importlib.util.find_spec("vllm") is not None


def records_of(path):
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.split(".")[0])
def test_every_step_is_the_engines(path):
    report = replay(path)
    assert not report.mismatches, report.first


def test_the_recordings_have_preemptions_and_prefixes_found_again():
    ends = [records_of(path)[-1] for path in RECORDINGS]
    steps = [each for path in RECORDINGS for each in records_of(path) if each["type"] == "step"]
    assert {path.name.rsplit("_", 2)[0] for path in RECORDINGS} == set(IN_FLIGHT_KINDS)
    assert sum(end["preemptions"] for end in ends) > 100 and len(steps) > 1000
    assert sum(start > 0 and n > 1 for step in steps for _, start, n in step["runs"]) > 100


def differing():
    return [path.name.split("_s42")[0] for path in RECORDINGS if replay(path).mismatches]


def test_generated_tokens_found_too_early_are_noticed(monkeypatch):
    monkeypatch.setattr(Paged, "hear_late", lambda self: None)
    assert set(differing()) >= set(IN_FLIGHT_KINDS) - {"async_chunked_local"}


def test_a_last_block_that_nobody_is_told_of_is_noticed(monkeypatch):
    monkeypatch.setattr(Paged, "hear_all", lambda self, seq: None)
    assert "async_chunked_local" in differing()


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("_passed_over", lambda self, victim, seq: 0),
        ("_victim", VllmScheduler._victim),
        ("_admit", VllmScheduler._admit),
    ],
)
def test_a_rule_of_preemption_that_is_left_out_is_noticed(monkeypatch, rule, broken):
    monkeypatch.setattr(AsyncVllmScheduler, rule, broken)
    assert differing()


@pytest.mark.skipif(not has_vllm, reason="vLLM is not installed")
@pytest.mark.parametrize("kind", IN_FLIGHT_KINDS)
def test_a_new_recording_of_the_live_engine_is_replayed_without_a_difference(tmp_path, kind):
    from backends.vllm_recorder.trace import record

    seed = randbelow(10**6)
    for number in range(4):
        path, _ = record(kind, seed, number, tmp_path)
        report = replay(path)
        assert not report.mismatches, (seed, report.first)
