"""`kvlab study` and `kvlab report`, and the ready studies."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kvlab.cli import application
from kvlab.study.points import points_of
from kvlab.study.ready import ready_study, study_names
from kvlab.study.schema import Capacity, PlotWanted, Study
from workloads.errors import InputError

ROOT = Path(__file__).parents[2]
STUDY = """
title = "Blocks"
workload = "chat"
requests = 8
kv_tokens = 4096
max_seqs = 4
seeds = 1
policies = ["paged"]
experiments = ["vattention-mapping"]
metrics = ["ttft_s.p99", "prefix_hit_rate"]
[grid]
block_size = [8, 64]
max_batched_tokens = [256, 1024]
[[plots]]
kind = "heat"
x = "block_size"
y = "max_batched_tokens"
metric = "prefix_hit_rate"
[[plots]]
kind = "pareto"
x = "ttft_s.p99"
y = "goodput_rps"
"""


def kvlab(*arguments):
    return CliRunner().invoke(application(), list(map(str, arguments)))


def test_a_study_file_becomes_a_page_with_pictures_and_report_makes_the_same(tmp_path):
    (tmp_path / "blocks.toml").write_text(STUDY)
    done = kvlab(
        "study",
        tmp_path / "blocks.toml",
        "--out",
        tmp_path / "a",
        "--results",
        tmp_path / "results",
        "--jobs",
        1,
    )
    assert done.exit_code == 0, done.output
    page = (tmp_path / "a" / "blocks.md").read_text()
    pictures = sorted(path.name for path in (tmp_path / "a" / "blocks").glob("*.svg"))
    assert pictures == ["1-heat.svg", "2-pareto.svg", "vattention-mapping.svg"]
    assert "## `vattention-mapping`" in page and "**The target is met.**" in page
    assert all(f"](blocks/{name})" in page for name in pictures)
    assert "| max_batched_tokens | block_size |" in page
    again = kvlab("report", tmp_path / "results", "--out", tmp_path / "b")
    assert again.exit_code == 0, again.output
    other = (tmp_path / "b" / "report.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert rows == [line for line in other.splitlines() if line.startswith("| ")]
    for name in pictures:
        one, two = (tmp_path / "a" / "blocks" / name), (tmp_path / "b" / "report" / name)
        assert one.read_bytes() == two.read_bytes()
    html = (tmp_path / "b" / "report.html").read_text()
    assert html.count("data:image/") == len(pictures)
    # Without --out the pages lie beside the results, which stay as good as they were.
    assert kvlab("report", tmp_path / "results").exit_code == 0
    inside = (tmp_path / "results" / "report.html").read_text()
    assert inside.replace(f" --out {tmp_path / 'b'}", "") == html.replace(
        f" --out {tmp_path / 'b'}", ""
    )
    assert kvlab("sweep", tmp_path / "blocks.toml", "--out", tmp_path / "results").exit_code == 0
    assert (tmp_path / "results" / "report.html").exists()


def test_report_makes_the_files_of_a_comparison_again(tmp_path):
    compare = ("--policies", "paged", "--requests", 4, "--kv-tokens", 4096)
    done = kvlab("compare", *compare, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    files = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in tmp_path.rglob("a/**/*.*")}
    assert any(str(path).endswith("report.html") for path in files)
    done = kvlab("report", tmp_path / "a", "--out", tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert {p.relative_to(tmp_path / "b"): p.read_bytes() for p in tmp_path.rglob("b/**/*.*")} == (
        files
    )
    (tmp_path / "a" / "report.html").write_text("damaged")
    assert kvlab("report", tmp_path / "a").exit_code == 0
    assert (tmp_path / "a" / "report.html").read_bytes() == files[Path("report.html")]
    refused = kvlab("report", tmp_path / "a" / "paged")
    assert "expected what kvlab sweep --out or kvlab compare --out" in str(refused.exception)
    (tmp_path / "mine.txt").write_text("mine")
    refused = kvlab("report", tmp_path / "a", "--out", tmp_path)
    assert "did not write there" in str(refused.exception)


@pytest.mark.parametrize("name", study_names())
def test_ready_studies_can_be_run_as_they_stand(name):
    study = ready_study(name)
    points = points_of(study)
    assert 1 <= len(points) <= 200
    for config in {point.labels: point.config for point in points}.values():
        config.budget()
    if study.title:
        assert study.question


def test_a_study_runs_over_a_trace_of_ones_own(tmp_path):
    rows = "".join(f"2024-05-10 00:00:{second:02}.0,300,20\n" for second in range(12))
    (tmp_path / "mine.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    trace = f"azure:{tmp_path / 'mine.csv'}"
    (tmp_path / "blocks.toml").write_text('answer = "Old."\n' + STUDY.replace("experiments", "#"))
    done = kvlab(
        "study",
        tmp_path / "blocks.toml",
        *("--workload", trace, "--requests", 5, "--out", tmp_path, "--jobs", 1),
    )
    assert done.exit_code == 0, done.output
    page = (tmp_path / "blocks.md").read_text()
    assert f"`workload` {trace}" in page and "`requests` 5" in page and "Old." not in page
    assert f"--workload {trace} --requests 5" in page
    assert "4 runs" in page  # a trace draws nothing: one run a point
    refused = kvlab("study", "eviction", "--workload", trace)
    assert "says the traffic itself" in str(refused.exception)
    assert "go with --workload" in str(kvlab("study", "holes", "--rate", 2).exception)


def test_experiments_that_need_files_are_refused(tmp_path):
    (tmp_path / "blocks.toml").write_text(STUDY.replace("vattention-mapping", "mooncake-fig9"))
    done = kvlab("study", tmp_path / "blocks.toml", "--jobs", 1)
    assert "mooncake-fig9 needs --data" in str(done.exception)
    (tmp_path / "blocks.toml").write_text(STUDY.replace("vattention-mapping", "vatention"))
    assert "vattention-mapping" in str(kvlab("study", tmp_path / "blocks.toml").exception)


def test_they_are_listed_and_unknown_ones_suggested():
    listed = kvlab("study", "--list").stdout
    assert "block-size" in listed
    assert "demo" not in listed
    with pytest.raises(InputError, match="did you mean 'block-size'"):
        ready_study("blok-size")
    assert isinstance(kvlab("study").exception, InputError)


def test_every_field_of_a_study_is_documented():
    text = (ROOT / "docs" / "studies.md").read_text()
    own = set(Study.model_fields) - set(Study.__mro__[1].model_fields)
    for field in own | set(PlotWanted.model_fields) | set(Capacity.model_fields):
        assert f"`{field}`" in text or f"\n{field} = " in text, field


def test_compare_says_what_a_study_is_for(tmp_path):
    (tmp_path / "blocks.toml").write_text(STUDY)
    done = kvlab("compare", tmp_path / "blocks.toml")
    assert str(done.exception).endswith(f"run kvlab sweep {tmp_path / 'blocks.toml'} --out DIR")


def test_the_docs_list_studies_that_there_are():
    text = (ROOT / "docs" / "studies.md").read_text()
    listed = re.findall(r"\[([a-z-]+)\]\(studies/", text)
    assert len(listed) >= 12
    assert set(listed) <= set(study_names())


def test_the_command_line_stays_quick_to_start():
    code = (
        "import sys, kvlab.cli; kvlab.cli.application(); "
        "print([m for m in ('pandas', 'pydantic', 'scipy', 'joblib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
