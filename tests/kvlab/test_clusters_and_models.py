"""Clusters, tiers, tensor parallelism and GGUF files from the command line."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest

from kvlab import cli
from kvlab.config import RunConfig
from kvlab.running import run
from kvlab.study.points import points_of
from kvlab.study.schema import Study
from reports.results import RunResult

COMMON = [
    "compare",
    "--workload",
    "chat",
    "--requests",
    "30",
    "--rate",
    "20",
    "--policies",
    "paged",
]


def main(arguments: list[str]) -> int:
    """The exit code of the command in this process: a new one would take a second to start."""
    with patch("sys.argv", ["kvlab", *arguments]):
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def summary(capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    assert main([*COMMON, *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["paged"]


SETTING = {"workload": "chat", "requests": 30, "rate": 20, "policy": "paged"}


def test_two_replicas(tmp_path: Path) -> None:
    alone = run(RunConfig.of(SETTING))
    assert "cluster" not in alone.summary
    assert "replica" not in alone.requests
    cluster = {"replicas": 2, "router": "session-sticky"}
    run(RunConfig.of(SETTING | {"cluster": cluster})).save(tmp_path / "both")
    both = RunResult.load(tmp_path / "both")
    assert both.summary["output_tokens"] == alone.summary["output_tokens"]
    assert sum(each["requests"] for each in both.summary["cluster"]["replicas"]) == 30
    assert 1 <= both.summary["cluster"]["imbalance"]["serving"] <= 2
    assert set(both.requests["replica"]) == {0, 1}
    # All turns of a conversation are where the first was.
    assert (both.requests.groupby("conversation")["replica"].nunique() == 1).all()
    assert [cache["name"] for cache in both.summary["caches"]] == [
        *("replica 0: block pool", "replica 1: block pool")
    ]
    # What is stored is enough to repeat the run.
    again = RunConfig.of(both.config)
    assert again.cluster.plan(0).router == "session-sticky"


def test_one_replica_changes_nothing(tmp_path: Path) -> None:
    run(RunConfig.of(SETTING)).save(tmp_path / "a")
    run(RunConfig.of(SETTING | {"cluster": {"router": "least-loaded"}})).save(tmp_path / "b")
    for file in ("requests.parquet", "timeline.parquet", "summary.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_disaggregated_with_tiers(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prefill-replicas", "2", "--decode-replicas", "1", "--link-bandwidth", "25GB"]
    assert main([*COMMON, *options, "--host-cache", "4GiB", "--kv-tokens", "8000"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "paged: prefill replicas were busy" in printed
    assert "paged: the link carried" in printed
    assert "paged: prompt tokens found on device" in printed


def test_tiers_of_all_replicas(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--replicas", "3", "--kv-tokens", "6000", "--host-cache", "1GiB"]
    options += ["--disk-cache", "8GiB"]
    own = summary(capsys, *options)["cluster"]["tiers"]
    both = summary(capsys, *options, "--shared-cache", "host,disk")["cluster"]["tiers"]
    assert [each["name"] for each in both] == ["device", "shared host", "shared disk"]
    assert [each["bytes"] for each in both[1:]] == [2**30, 2**33]
    assert [each["bytes"] for each in own[1:]] == [3 * 2**30, 3 * 2**33]
    # What one has computed the others find.
    assert sum(each["hit_tokens"] for each in both) > sum(each["hit_tokens"] for each in own)


def test_schedulers_are_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    usual, static = summary(capsys), summary(capsys, "--scheduler", "static")
    assert usual["ttft_s"]["p99"] < static["ttft_s"]["p99"]
    assert usual["output_tokens"] == static["output_tokens"]


def test_disaggregated_over_cells(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prefill-replicas", "1", "--decode-replicas", "1", "--policies", "ring"]
    assert main([*COMMON, *options, "--json"]) == 0
    ring = json.loads(capsys.readouterr().out)["ring"]
    assert ring["requests_completed"] == 30
    # 128 KiB a token, and what the state says of its cells.
    prompts = ring["cluster"]["replicas"][0]["prompt_tokens"]
    per_token = ring["cluster"]["link"]["bytes"] / prompts
    assert 131072 < per_token < 131072 * 1.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host-cache", "1GiB", "--shared-cache", "disk"], "there is no disk tier"),
        (["--host-cache", "1GiB", "--shared-cache", "hosts"], "tiers.shared.0: input should be"),
        (["--prefill-replicas", "1"], "prefill_replicas and decode_replicas go together"),
        (["--replicas", "2", "--decode-replicas", "2"], "go together"),
        (["--replicas", "2", "--router", "robin"], "unknown router 'robin'; did you mean"),
        (["--replicas", "2", "--router-option", "by=x"], "round-robin has no option 'by'"),
        (["--replicas", "0"], "cluster.replicas: input should be greater than or equal to 1"),
        (["--host-cache", "lots"], "tiers.host: "),
        (["--host-cache", "1KiB"], "the host tier of 1024 bytes holds no chunk"),
        (["--host-cache", "1GiB", "--model", "gemma-3-1b"], "layers that are not cached in full"),
        (["--tensor-parallel", "3"], "attention heads (32) must be a multiple"),
        (["--tensor-parallel", "2", "--hardware", "cpu-16"], "states no interconnect_bandwidth"),
    ],
)
def test_what_is_refused(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([*COMMON, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_tensor_parallel_is_faster_and_has_more_room(capsys: pytest.CaptureFixture[str]) -> None:
    one, four = summary(capsys), summary(capsys, "--tensor-parallel", "4")
    assert four["tpot_s"]["mean"] < one["tpot_s"]["mean"]
    # Of each device: less weights, so more K/V; of a token a quarter of the bytes.
    assert four["kv_bytes"] > one["kv_bytes"]
    assert four["caches"][0]["cell_bytes"] * 4 == one["caches"][0]["cell_bytes"]


def test_gguf_files_are_models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from backends.recorder.tiny_models import write_model

    path = tmp_path / "tiny.model"
    write_model("llama", path, seed=1)
    assert main(["memory", "--model", str(path), "--context", "512", "--json"]) == 0
    # Two layers, K and V of 128 elements in two bytes each.
    assert json.loads(capsys.readouterr().out)["bytes"] == 512 * 2 * 2 * 128 * 2
    assert summary(capsys, "--model", str(path))["requests_completed"] == 30


def test_replicas_can_be_an_axis_of_a_study() -> None:
    fields = {"policies": ["paged"], "cluster": {"router": "least-loaded"}, "seeds": 1}
    points = points_of(Study.of(fields | {"grid": {"cluster": {"replicas": [1, 2]}}}))
    found = [(point.config.cluster.replicas, point.config.cluster.router) for point in points]
    assert found == [(1, "least-loaded"), (2, "least-loaded")]


HALF_A_SECOND = """
from sim.timing.base import TimeModel

class HalfASecond(TimeModel):
    name = "half"

    @classmethod
    def of(cls, budget, hardware, path):
        return cls()

    def seconds(self, work):
        return 0.5 + 0.0 * work.decode_context

    def swap_seconds(self, n_bytes, to_host):
        return 0.0
"""


def test_hand_computed_from_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halves.py").write_text(HALF_A_SECOND)
    monkeypatch.syspath_prepend(tmp_path)
    trace = tmp_path / "two.jsonl"
    others = {"path": None, "conversation": None, "turn": 0, "samples": 1, "beam_width": 1}
    others |= {"priority": 0, "slo_class": "default"}
    lines = [
        {"format": "kvlab-requests", "version": 1},
        {"id": 0, "arrival": 0.0, "prompt": 64, "output": 3} | others,
        {"id": 1, "arrival": 0.25, "prompt": 32, "output": 2} | others,
    ]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["compare", "--workload", f"jsonl:{trace}", "--policies", "paged", "--json"]
    command += ["--time-model", "halves:HalfASecond"]
    # Two engines: 0.5, 1.0, 1.5 and 0.75, 1.25.
    assert main([*command, "--replicas", "2"]) == 0
    both = json.loads(capsys.readouterr().out)["paged"]
    assert both["makespan_s"] == 1.5
    assert both["ttft_s"]["mean"] == 0.5
    assert both["tpot_s"]["mean"] == 0.5
    # 128 KiB a token; the link carries 64 tokens a second. Prompts are done at 0.5 and 1.0; the
    # first alone has 32 of its 64 tokens carried by then, and both end at 2.0. There both decode
    # until 2.5, the first until 3.0.
    command += ["--prefill-replicas", "1", "--decode-replicas", "1", "--link-bandwidth", "8MiB"]
    assert main(command) == 0
    apart = json.loads(capsys.readouterr().out)["paged"]
    assert apart["makespan_s"] == 3.0
    assert apart["ttft_s"]["mean"] == (0.5 + 0.75) / 2
    assert apart["tpot_s"]["mean"] == (1.25 + 1.5) / 2
    assert apart["cluster"]["link"] == {"bytes": 96 * 131072, "busy_share": 0.5}
