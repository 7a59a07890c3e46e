from __future__ import annotations

import filecmp
import json

import numpy as np
import pandas as pd
import pytest

from reports.frames import REQUEST_COLUMNS, TIMELINE_COLUMNS
from reports.metrics import REQUIRED
from reports.results import FILES, RunResult
from workloads.errors import InputError


def test_what_is_saved_is_loaded(make_run, tmp_path):
    run = make_run(caches=2)
    run.save(tmp_path / "run")
    again = RunResult.load(tmp_path / "run")
    pd.testing.assert_frame_equal(again.requests, run.requests)
    pd.testing.assert_frame_equal(again.timeline, run.timeline)
    assert again.config == run.config
    assert again.summary == {k: v for k, v in run.summary.items() if k != "cpu_s"}
    assert again.requests["conversation"].dtype == "Int64"
    np.testing.assert_array_equal(again.owners(1), run.owners(1))
    assert again.owners(2) is None


def test_files_are_the_four_and_equal_runs_give_equal_bytes(make_run, tmp_path):
    make_run(seed=3).save(tmp_path / "one")
    make_run(seed=3, cpu_s=99.0).save(tmp_path / "other")
    RunResult.load(tmp_path / "one").save(tmp_path / "loaded")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(FILES)
    for other in ("other", "loaded"):
        _, differ, errors = filecmp.cmpfiles(
            tmp_path / "one", tmp_path / other, FILES, shallow=False
        )
        assert (differ, errors) == ([], [])


def test_no_value_is_none_and_no_option_is_absent(make_run):
    run = make_run(finish=False, goodput_rps=float("nan"))
    assert run.summary["goodput_rps"] is None
    assert run.summary["ttft_s"]["p99"] is None
    assert run.config["kv"] == {"tokens": 65_536, "type": "f16"}
    assert run.requests["ttft_s"].isna().all()
    assert run.finished.empty
    assert run.failures() == {"can never fit: needs more cells than the cache has": 60}


@pytest.mark.parametrize("name", ["status", "arrival_s"])
def test_missing_request_column_is_named(make_run, name):
    run = make_run(requests=3)
    columns = {key: run.requests[key] for key in REQUEST_COLUMNS if key != name}
    timeline = {key: run.timeline[key] for key in TIMELINE_COLUMNS}
    with pytest.raises(InputError, match=f"requests: lacks column '{name}'"):
        RunResult.of(run.config, columns, timeline, run.summary)


@pytest.mark.parametrize("name", [*REQUIRED, "caches", "itl_cdf"])
def test_missing_metric_is_named(make_run, tmp_path, name):
    make_run(requests=3).save(tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    summary = json.loads(path.read_text())
    del summary[name]
    path.write_text(json.dumps(summary))
    with pytest.raises(InputError, match=rf"summary.json: lacks '{name}'"):
        RunResult.load(tmp_path / "run")


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(make_run, tmp_path, name):
    make_run(requests=3).save(tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        RunResult.load(tmp_path / "run")


@pytest.mark.parametrize("name", ["requests.parquet", "summary.json", "timeline.parquet"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.99])
def test_truncated_file_is_named_in_one_line(make_run, tmp_path, name, keep):
    make_run(requests=30).save(tmp_path / "run")
    path = tmp_path / "run" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(InputError, match=f"{name}: (truncated|cannot be read)") as caught:
        RunResult.load(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_damaged_middle_of_a_file_is_named(make_run, tmp_path):
    make_run(requests=3000, finish=False).save(tmp_path / "run")
    path = tmp_path / "run" / "requests.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[200:2000] = bytes(1800)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"requests\.parquet"):
        RunResult.load(tmp_path / "run")


def test_damaged_config_and_no_directory(make_run, tmp_path):
    make_run(requests=3).save(tmp_path / "run")
    (tmp_path / "run" / "config.toml").write_text('model = "gem')
    with pytest.raises(InputError, match=r"config\.toml: truncated or damaged"):
        RunResult.load(tmp_path / "run")
    with pytest.raises(InputError, match="no such directory"):
        RunResult.load(tmp_path / "nowhere")
