"""Recordings replayed as fast as we can end where they end step by step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.conformance.vllm_speed import replay_timed

SHARED = Path(os.environ.get("KVLAB_SHARED", Path(__file__).parents[3] / "shared"))
CORPUS = SHARED / "conformance/vllm/corpus"
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no recordings in {CORPUS}")


def names() -> list[str]:
    """One recording in six, of every kind, and the large ones."""
    found = sorted(path.name for path in CORPUS.glob("*.jsonl.gz"))
    return sorted({*found[::6], *(name for name in found if name.startswith("big"))})


@pytest.mark.parametrize("name", names())
def test_runs_of_steps_end_where_single_steps_do(name: str) -> None:
    runs, steps = (replay_timed(CORPUS / name, leap=leap) for leap in (True, False))
    assert steps.singly == steps.steps == runs.steps
    assert runs.finished == steps.finished
    assert runs.free_queue == steps.free_queue


def test_sequences_that_stay_refused_do_not_keep_steps_single() -> None:
    """In nearly every step of this recording somebody is refused, who shares a prefix."""
    timed = replay_timed(CORPUS / "big_s0_01.jsonl.gz")
    assert timed.singly < timed.steps / 2
