"""Runs of steps against single steps: whole result directories, byte for byte."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlab.config import RunConfig
from kvlab.running import run
from sim.registries import POLICIES, SCHEDULERS
from workloads.errors import InputError

SHARED = Path(os.environ.get("KVLAB_SHARED", Path(__file__).parents[3] / "shared"))
PROFILE = SHARED / "data/vllm_runs/RTXPRO6000_Llama-3.1-8B/profile"
WORKLOADS = ("chat", "sharegpt", "alpaca", "batch", "agent", "parallel-sampling", "beam-search")
MODELS = ("llama-3.1-8b", "gemma-3-12b", "mamba-2.8b")
TIME_MODELS = ["roofline", *([f"table:{PROFILE}"] if PROFILE.is_dir() else [])]


def files_of(fields: dict[str, object]) -> dict[str, bytes]:
    """What a run writes, but for the configuration."""
    with TemporaryDirectory() as directory:
        place = Path(directory) / "run"
        run(RunConfig.of(fields)).save(place)
        files = [file for file in place.iterdir() if file.name != "config.toml"]
        return {file.name: file.read_bytes() for file in files}


@pytest.mark.filterwarnings("ignore::sim.timing.table.ProfileRangeWarning")
@settings(max_examples=60)
@given(data=st.data())
def test_whole_result_directories_are_the_same(data: st.DataObject) -> None:
    fields = {
        "policy": data.draw(st.sampled_from(POLICIES.names())),
        "scheduler": data.draw(st.sampled_from(SCHEDULERS.names())),
        "model": data.draw(st.sampled_from(MODELS)),
        "time_model": data.draw(st.sampled_from(TIME_MODELS)),
        "workload": data.draw(st.sampled_from(WORKLOADS)),
        "rate": data.draw(st.sampled_from((0.5, 5.0, 50.0, 1000.0))),
        "requests": data.draw(st.integers(1, 25)),
        "kv_tokens": data.draw(st.integers(256, 20_000)),
        "max_seqs": data.draw(st.sampled_from((1, 3, 8, 256))),
        "max_model_len": 4096,
        "seed": data.draw(st.integers(0, 1000)),
    }
    if data.draw(st.integers(0, 3)) == 0:
        fields["speculation"] = {"tokens": data.draw(st.integers(1, 5)), "acceptance": 0.7}
    try:
        leaps = files_of(fields)
    except InputError:
        return  # Not every scheduler serves every policy, nor every policy every model.
    assert leaps == files_of(fields | {"exact_steps": True})


def test_a_batch_that_runs_refuses_nobody() -> None:
    fields = {"policy": "contiguous", "scheduler": "static", "model": "gemma-3-12b", "seed": 609}
    fields |= {"workload": "few-shot", "rate": 50.0, "requests": 21}
    fields |= {"kv_tokens": 376, "max_seqs": 3, "max_model_len": 1024}
    leaps, steps = files_of(fields), files_of(fields | {"exact_steps": True})
    assert b'"alloc_failures": 0,' not in leaps["summary.json"]
    assert leaps == steps
