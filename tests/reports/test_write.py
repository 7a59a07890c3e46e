from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports import write
from reports.plots import PLOTS
from reports.write import directories_of, ensure_comparison_fits, read_comparison, write_comparison
from workloads.errors import InputError


@pytest.fixture(scope="module")
def runs(make_run):
    return {"ring": make_run("ring", seed=2), "<b>/../x": make_run(finish=False)}


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    root = tmp_path_factory.mktemp("comparison") / "out"
    write_comparison(runs, root)
    return root


def test_everything_is_there(written):
    run = {"config.toml", "requests.parquet", "timeline.parquet", "summary.json"}
    assert set(files_of(written)) == {
        "report.html",
        "comparison.json",
        *(f"plots/{name}.{kind}" for name in PLOTS for kind in ("png", "svg")),
        *(f"{policy}/{name}" for policy in ("ring", "_b__.._x") for name in run),
    }
    index = json.loads((written / "comparison.json").read_text())
    assert set(index["files"]) == set(files_of(written))
    assert index["best"] == ["ring"]
    assert index["metrics"]["ring"]["requests_completed"] == 60
    assert [path.name for path in written.parent.iterdir()] == ["out"]


def test_equal_runs_give_equal_bytes_even_after_loading(make_run, runs, written, tmp_path):
    loaded = read_comparison(written)
    assert list(loaded) == list(runs)
    slow_machine = {"ring": make_run("ring", seed=2, cpu_s=77.0), "<b>/../x": loaded["<b>/../x"]}
    write_comparison(slow_machine, tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(written)


@pytest.fixture
def no_plots(monkeypatch):
    """Draw nothing: for tests of what is not about pictures."""
    monkeypatch.setattr(write, "pictures_of", lambda runs: [])


def test_files_of_others_are_never_lost(make_run, tmp_path, no_plots):
    run = {"ring": make_run(requests=5, rows=5)}
    write_comparison(run, tmp_path / "out")
    (tmp_path / "out" / "ring" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="did not write"):
        ensure_comparison_fits(tmp_path / "out")
    with pytest.raises(InputError, match="did not write"):
        write_comparison(run, tmp_path / "out")
    assert (tmp_path / "out" / "ring" / "notes.txt").read_text() == "mine"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "comparison.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="did not write"):
        write_comparison(run, tmp_path / "foreign")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_writing_leaves_nothing(make_run, tmp_path, monkeypatch, no_plots, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(write, "page_of", fail)
    with pytest.raises(error):
        write_comparison({"a": make_run(requests=5, rows=5)}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_report(tmp_path):
    with pytest.raises(InputError, match="no policy"):
        write_comparison({}, tmp_path / "out")


def test_directories_are_plain_and_distinct():
    names = ["paged", "Paged", "a/b", "a:b", "plots", "..", "", "report.html", "x" * 300]
    directories = directories_of(names)
    assert list(directories) == names
    assert directories["paged"] == "paged"
    folded = [name.casefold() for name in directories.values()]
    assert len(set(folded)) == len(names)
    assert not {"plots", "report.html", "", ".", ".."} & set(folded)
    assert all("/" not in name and len(name) < 120 for name in folded)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"policies": [{"name": "a"}]}', "\x00"])
def test_damaged_index_is_named(tmp_path, text):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(InputError, match=r"comparison\.json"):
        read_comparison(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_comparison(tmp_path / "nowhere")
