"""`kvlab workload`: any workload in numbers, in pictures, and as a file that replays."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reports.workload import lines_of
from workloads.spec import workload_of
from workloads.statistics import statistics_of

KVLAB = [sys.executable, "-c", "from kvlab.cli import main; main()"]
FIXTURES = Path(__file__).parents[1] / "workloads" / "fixtures"


def kvlab(*args: str | Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*KVLAB, *map(str, args)], capture_output=True, text=True, **options)


def test_a_generator_becomes_a_file_that_replays(tmp_path: Path) -> None:
    """Conversations wait for answers in the file too; what is written again is the same file."""
    options = ["--requests", "60", "--seed", "3", "--workload-option", "turns=3"]
    done = kvlab("workload", "chat", *options, "--out", tmp_path / "chat.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("chat: 60 requests in ")
    assert "Ideal hit rate (unlimited cache)" in done.stdout
    again = kvlab("workload", tmp_path / "chat.jsonl", "--out", tmp_path / "again.jsonl")
    assert again.returncode == 0
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "chat.jsonl").read_bytes()
    assert again.stdout.splitlines()[1:-1] == done.stdout.splitlines()[1:-1]
    original = workload_of("chat", requests=60, seed=3, turns=3.0)
    replayed = workload_of(str(tmp_path / "chat.jsonl"))
    ours, theirs = statistics_of(original), statistics_of(replayed)
    assert (ours.starts == theirs.starts).all()
    assert (ours.prompts == theirs.prompts).all()


def test_json() -> None:
    done = kvlab("workload", FIXTURES / "mooncake.jsonl", "--json", "--block-size", "512")
    summary = json.loads(done.stdout)
    assert summary["requests"] == 3
    assert summary["prefix"]["block_size"] == 512
    # Two whole blocks come back, one of them a whole prompt of which the last token is computed.
    assert summary["prefix"]["ideal_hit_rate_tokens"] == pytest.approx((512 + 1024) / 3324)


def test_figures(tmp_path: Path) -> None:
    done = kvlab("workload", FIXTURES / "weka.json", "--plot", tmp_path / "plots")
    assert done.returncode == 0
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    kinds = ("png", "svg")
    assert names == {f"{name}.{kind}" for name in ("lengths", "load", "reuse") for kind in kinds}
    (tmp_path / "plots" / "mine.txt").write_text("keep")
    refused = kvlab("workload", FIXTURES / "weka.json", "--plot", tmp_path / "plots")
    assert refused.returncode == 2
    assert "holds files that kvlab did not write" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["chta"], "did you mean 'chat'"),
        ([str(FIXTURES / "servegen/chunk-0-trace.csv")], "is of none of azure, "),
        (["chat", "--workload-option", "turns"], "expected KEY=VALUE"),
        (["chat", "--block-size", "0"], "--block-size"),
        (["chat", "--tpot", "-1"], "--tpot"),
        (["chat", "--out", "/nowhere/chat.jsonl"], "/nowhere/chat.jsonl: cannot be written"),
        ([], "Missing argument"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], expected: str) -> None:
    done = kvlab("workload", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_path_alone_serves_a_comparison() -> None:
    done = kvlab(
        "compare", "--workload", FIXTURES / "burstgpt.csv", "--policies", "paged", "--json",
        "--kv-tokens", "4096", "--workload-option", "repeat=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["paged"]["requests_completed"] == 6


def test_lines_say_what_is_special() -> None:
    def said(spec: str, **options: object) -> str:
        return "\n".join(lines_of(statistics_of(workload_of(spec, **options)).summary()))

    assert "Parallel samples: up to 4" in said("parallel-sampling", requests=5)
    assert "Beam search: up to 4 beams" in said("beam-search", requests=5)
    assert "Arrivals: all at 0 s" in said("batch", requests=5)
    closed = said("sharegpt", requests=9, arrivals="closed:clients=2")
    assert "a closed loop of 2 clients" in closed
    assert "Arrivals (nominal, with 0.02 s a token and no waiting)" in closed
    assert "Ideal hit rate" not in closed
    mixed = said("multi-tenant", requests=100)
    assert "Service classes: batch " in mixed
    one = said("sharegpt", requests=1)
    assert "1 requests in 1 sessions" in one
