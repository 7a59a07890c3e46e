"""`kvlab export`: a stored run in other formats; a window of time sampled closely."""

import json

import pytest
from typer.testing import CliRunner

from kvlab.cli import application
from kvlab.config import RunConfig
from kvlab.running import run
from reports.results import RunResult
from workloads.errors import InputError

SETTING = {"policy": "paged", "kv_tokens": 4096, "requests": 40, "rate": 20.0}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    where = tmp_path_factory.mktemp("runs") / "paged"
    run(RunConfig.of(SETTING | {"max_model_len": 2048})).save(where)
    return where


def invoke(*arguments):
    return CliRunner().invoke(application(), ["export", *map(str, arguments)])


def test_every_format_is_written(stored, tmp_path):
    names = {"--perfetto": "t.json", "--prometheus": "m.txt", "--waterfall": "w.svg"}
    files = [part for option, name in names.items() for part in (option, tmp_path / name)]
    result = invoke(stored, *files, "--request", 3, "--memory-map", tmp_path / "map.html")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "t.json").read_text("utf-8"))["traceEvents"]
    assert (tmp_path / "m.txt").read_text("utf-8").endswith("# EOF\n")
    assert (tmp_path / "w.svg").read_text("utf-8").startswith("<?xml")
    assert "Memory map of paged" in (tmp_path / "map.html").read_text("utf-8")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_window_has_samples_of_its_own_and_changes_nothing_else(stored):
    config = RunConfig.of(SETTING | {"max_model_len": 2048})
    whole, part = RunResult.load(stored), run(config, window=(0.5, 1.0))
    times = part.timeline["time_s"]
    assert times.between(0.5, 1.05).all()
    assert len(times) > 2 * whole.timeline["time_s"].between(0.5, 1.0).sum()
    assert part.requests.equals(whole.requests) or (
        part.requests["finish_s"].tolist() == whole.requests["finish_s"].tolist()
    )
    single = run(config.model_copy(update={"exact_steps": True}), window=(0.5, 1.0))
    assert single.timeline["time_s"].tolist() == times.tolist()
    assert (single.owners(0) == part.owners(0)).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "expected --perfetto"),
        (("--waterfall", "w.pdf"), "ends with .svg or .png"),
        (("--waterfall", "w.svg", "--request", 999), "no request 999"),
        (("--memory-map", "m.html", "--start", 5, "--end", 5), "expected a window"),
    ],
)
def test_what_cannot_be_done_is_said(stored, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        raise invoke(stored, *arguments).exception
    assert not list(tmp_path.iterdir())


def test_a_comparison_names_its_runs(stored, tmp_path):
    (tmp_path / "comparison.json").write_text("{}")
    (tmp_path / "paged").mkdir()
    (tmp_path / "paged" / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="expected one of its runs: paged"):
        raise invoke(tmp_path, "--perfetto", tmp_path / "t.json").exception
