"""vLLM's scheduler with drafts, recorded: every step of ours must be the engine's.

Random numbers of tokens were drafted and accepted. Compared are block tables, the free queue, the
prefix cache, who runs, waits and is preempted, and what vLLM counts of drafts, step by step.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from backends.conformance.vllm import replay
from sim.paging.manager import BlockManager
from sim.schedulers.vllm import VllmScheduler

RECORDINGS = sorted((Path(__file__).parent / "recordings/vllm").glob("*.jsonl.gz"))


def steps_of(path):
    with gzip.open(path, "rt") as lines:
        records = [json.loads(line) for line in lines]
    return [each for each in records if each["type"] == "step" and not each.get("idle")]


def test_the_recordings_have_drafts_of_every_fate():
    steps = [step for path in RECORDINGS for step in steps_of(path)]
    drafts, drafted, accepted = (sum(step["verified"][i] for step in steps) for i in range(3))
    assert len(RECORDINGS) == 6 and len(steps) > 150
    assert drafts > 200 and accepted > 200 and drafted - accepted > 200
    assert sum(len(step["preempted"]) for step in steps) > 5


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.split(".")[0])
def test_every_step_is_the_engines(path):
    report = replay(path)
    assert not report.mismatches, report.first


def differing():
    return [path.name.split("_s0")[0] for path in RECORDINGS if replay(path).mismatches]


def test_drafts_in_the_prefix_cache_are_noticed(monkeypatch):
    extend = BlockManager.extend

    def publishing(self, holding, computed, n, tokens, lookahead=0):
        return extend(self, holding, computed, n, computed + n, lookahead)

    monkeypatch.setattr(BlockManager, "extend", publishing)
    assert "spec_preempt" in differing()


def test_a_forgotten_lookahead_is_noticed(monkeypatch):
    speculate = VllmScheduler.speculate

    def without(self, speculation):
        speculation.lookahead = 0
        speculate(self, speculation)

    monkeypatch.setattr(VllmScheduler, "speculate", without)
    assert differing() == ["spec_chunked_local", "spec_hybrid"]


def test_tokens_that_are_not_taken_back_are_noticed(monkeypatch):
    def keeping(self, seq, draft):
        seq.tokens += draft.kept - 1 if draft else 0
        seq.drafts = self.speculation.drafts_for(seq)

    monkeypatch.setattr(VllmScheduler, "_settle", keeping)
    assert len(differing()) == len(RECORDINGS)
