"""Runs of steps against single steps: whole result directories, byte for byte."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_times import (
    crooked_us,
    write_attention_tables,
    write_calibration,
    write_profile,
)

from kvlab.config import RunConfig
from kvlab.running import run
from sim.registries import POLICIES, SCHEDULERS, TIME_MODELS
from workloads.errors import InputError

WORKLOADS = ("chat", "sharegpt", "alpaca", "batch", "agent", "parallel-sampling", "beam-search")
MODELS = ("llama-3.1-8b", "gemma-3-12b", "mamba-2.8b")


@pytest.fixture(scope="module")
def time_models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All that there are, the measured ones on files made up for Llama-3.1-8B."""
    root = tmp_path_factory.mktemp("times")
    files = {
        "attention-tables": write_attention_tables(root),
        "calibration": write_calibration(root / "made-up.json", "llama-3.1-8b"),
        "table": write_profile(root / "profile", crooked_us),
    }
    return [f"{name}:{files[name]}" if name in files else name for name in TIME_MODELS.names()]


def files_of(fields: dict[str, object]) -> dict[str, bytes]:
    """What a run writes, but for the configuration."""
    with TemporaryDirectory() as directory:
        place = Path(directory) / "run"
        run(RunConfig.of(fields)).save(place)
        files = [file for file in place.iterdir() if file.name != "config.toml"]
        return {file.name: file.read_bytes() for file in files}


@pytest.mark.filterwarnings("ignore::sim.timing.table.ProfileRangeWarning")
@settings(max_examples=80)
@given(data=st.data())
def test_whole_result_directories_are_the_same(time_models: list[str], data: st.DataObject) -> None:
    time_model = data.draw(st.sampled_from(time_models))
    fields = {
        "policy": data.draw(st.sampled_from(POLICIES.names())),
        "scheduler": data.draw(st.sampled_from(SCHEDULERS.names())),
        "model": data.draw(st.sampled_from(MODELS if time_model == "roofline" else MODELS[:1])),
        "time_model": time_model,
        "workload": data.draw(st.sampled_from(WORKLOADS)),
        "requests": data.draw(st.integers(1, 25)),
        "kv_tokens": data.draw(st.integers(256, 20_000)),
        "max_seqs": data.draw(st.sampled_from((1, 3, 8, 256))),
        "max_model_len": 4096,
        "seed": data.draw(st.integers(0, 1000)),
    }
    if fields["workload"] != "batch":
        fields["rate"] = data.draw(st.sampled_from((0.5, 5.0, 50.0, 1000.0)))
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
