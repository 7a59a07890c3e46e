"""Replays of vLLM's recordings: no difference, and differences and damage told in words."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from backends.conformance.vllm import check, recognises, replay
from backends.conformance.vllm_speed import replay_timed
from workloads.errors import InputError

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("KVLAB_SHARED", ROOT.parent / "shared")) / "conformance/vllm/corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no recordings at {CORPUS}")
LARGEST = 6_000
"""Compressed bytes: all scripted recordings and a third of the others are smaller."""


def small() -> list[Path]:
    every = sorted(CORPUS.glob("*.jsonl.gz")) if CORPUS.is_dir() else []
    return [path for path in every if path.stat().st_size < LARGEST]


@needs_corpus
def test_recordings_are_replayed_without_a_difference() -> None:
    recordings = small()
    categories = {path.name.split("_s0_")[0].split("_")[0] for path in recordings}
    assert len(recordings) > 100
    assert {"swa", "hybrid", "chunked", "mamba", "preempt", "priority", "scripted"} <= categories
    for path in recordings:
        report = replay(path)
        assert report.mismatches == 0, report.first
        assert report.operations > 0


@needs_corpus
@pytest.mark.parametrize(
    "name",
    ["full_prefix_s0_04", "preempt_s0_06", "hybrid_mixed_s0_20", "mamba_s0_10", "swa_s0_04"],
)
def test_leaps_change_nothing(name: str) -> None:
    path = CORPUS / f"{name}.jsonl.gz"
    leaping, singly = replay_timed(path), replay_timed(path, leap=False)
    assert leaping.singly < singly.singly == singly.steps == leaping.steps
    assert leaping.finished == singly.finished
    assert leaping.free_queue == singly.free_queue


# Recordings made up here, to see what is said about differences and damage.


def config(**changes: Any) -> dict[str, Any]:
    return {
        "num_blocks": 8,
        "block_size": 4,
        "max_num_seqs": 2,
        "max_num_batched_tokens": 16,
        "max_model_len": 64,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "long_prefill_token_threshold": 0,
        "policy": "fcfs",
        "scheduler_reserve_full_isl": True,
        "mamba_cache_mode": "none",
        "groups": [{"kind": "full", "block_size": 4}],
    } | changes


def records(**changes: Any) -> list[dict[str, Any]]:
    request = {
        "type": "req",
        "id": "r0",
        "arrival": 0,
        "arrival_time": 0.0,
        "priority": 0,
        "prompt": [[1, 6]],
        "output": [[100, 1]],
        "max_tokens": 1,
        "min_tokens": 0,
        "salt": None,
        "skip_cache_read": False,
    }
    step = {
        "type": "step",
        "step": 0,
        "add": ["r0"],
        "abort": [],
        "sched": [["r0", 6]],
        "tables": {"r0": [[1, 2]]},
        "sampled": [["r0", 100]],
        "finished": [["r0", "length"]],
        "free_queue": [3, 4, 5, 6, 7, 2, 1],
    } | changes
    header = {"type": "trace", "vllm": "0.19.0", "config": config()}
    return [header, request, step, {"type": "end", "end": "drained", "steps": 1}]


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return path


def test_a_made_up_recording_agrees(tmp_path: Path) -> None:
    report = check(written(tmp_path / "a.jsonl.gz", records()))
    assert (report.traces, report.operations, report.mismatches) == (1, 1, 0)


def test_a_difference_is_told_with_both_answers(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl.gz", records(free_queue=[3, 4, 5, 6, 7, 1, 2]))
    report = check(path)
    assert report.mismatches == 1
    assert report.first is not None
    assert f"{path}:3" in report.first
    assert "free_queue" in report.first


def test_what_we_do_not_answer_is_a_difference(tmp_path: Path) -> None:
    report = check(written(tmp_path / "a.jsonl.gz", records(invented=1)))
    assert report.mismatches == 1


def test_totals_are_compared(tmp_path: Path) -> None:
    lines = records()
    lines[-1]["steps"] = 2
    report = check(written(tmp_path / "a.jsonl.gz", lines))
    assert report.mismatches == 1


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda lines: lines[:-1], "breaks off"),
        (lambda lines: [*lines[:2], {"type": "what"}], "unknown record type"),
        (lambda lines: [lines[0], {**lines[1], "prompt": 3}, *lines[2:]], "not a record"),
        (lambda lines: [lines[0], lines[1], {"type": "step"}, lines[3]], "not a record"),
        (
            lambda lines: [{**lines[0], "config": config(groups=[{"kind": "new"}])}, *lines[1:]],
            "unknown kind",
        ),
    ],
)
def test_damage_is_told_in_one_line(tmp_path: Path, damage: Any, expected: str) -> None:
    path = written(tmp_path / "a.jsonl.gz", damage(records()))
    with pytest.raises(InputError, match=expected) as error:
        check(path)
    assert "\n" not in str(error.value)


def test_other_recordings_are_not_ours(tmp_path: Path) -> None:
    assert not recognises({"type": "header", "lib": "llama"})
    with pytest.raises(InputError, match="not a recording of vLLM"):
        check(written(tmp_path / "a.jsonl.gz", [{"type": "header"}]))
