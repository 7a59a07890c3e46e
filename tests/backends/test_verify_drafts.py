"""Drafts on real rows: what is wrong is seen, and what llama.cpp's windows do in small ubatches."""

from dataclasses import replace

import pytest

from backends.verification.scenarios import SPECULATIVE
from backends.verification.traffic import Mixed
from sim.policies.ring import Ring
from sim.schedulers.vllm import VllmScheduler

BY_NAME = {scenario.name: scenario for scenario in SPECULATIVE}


def failures(policy, scenario, **changes):
    chosen = replace(scenario, **changes)
    return chosen.run(chosen.policy(policy)).failures


def test_cells_that_are_not_given_back_are_seen(monkeypatch):
    assert not failures("ring", BY_NAME["drafts"])
    monkeypatch.setattr(Ring, "take_back", lambda self, seq, n: None)
    assert failures("ring", BY_NAME["drafts"])


@pytest.mark.parametrize("policy", ["paged", "contiguous"])
def test_rows_of_rejected_tokens_that_are_read_are_seen(monkeypatch, policy):
    def keeping(self, seq, draft):
        """Go on as if all drafts had been accepted."""
        seq.tokens = min(seq.tokens + (draft.drafted if draft else 0), seq.limit)
        seq.drafts = self.speculation.drafts_for(seq)

    monkeypatch.setattr(VllmScheduler, "_settle", keeping)
    found = failures(policy, BY_NAME["drafts"])
    assert found and all("differs by" in each for each in found)


def test_windows_lose_cells_to_drafts_that_are_rejected():
    """As in the engine: cells are overwritten once a draft's window has passed them."""
    windows = replace(BY_NAME["drafts, sliding windows"], workload=Mixed(seed=1))
    assert not failures("iswa", windows)
    found = failures("iswa", windows, options={"ubatch": 16})
    assert found and all("some of the cells that it sees are not held" in each for each in found)
