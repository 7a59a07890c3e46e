"""Speculative decoding from the command line: settings, metrics, memory, sweeps, errors."""

import json
import tomllib
from pathlib import Path
from unittest.mock import patch

import pytest

from kvlab import cli
from kvlab.config import RunConfig
from kvlab.running import run
from kvlab.study.points import points_of
from kvlab.study.schema import Study
from reports.results import RunResult

SETTING = {"workload": "chat", "requests": 20, "rate": 20, "policy": "paged", "max_seqs": 32}
DRAFTS = {"tokens": 4, "acceptance": 0.8}
COMMON = ["compare", "--workload", "chat", "--requests", "20", "--rate", "20", "--max-seqs", "32"]
METRICS = {
    *("decode_steps", "decode_tokens", "drafts", "drafted_tokens", "accepted_tokens"),
    *("acceptance_rate", "acceptance_length", "decode_tokens_per_step"),
    *(f"accepted_at_{i}" for i in (1, 2, 3, 4)),
}


def main(*arguments: str) -> int:
    """The exit code of the command in this process: a new one would take a second to start."""
    with patch("sys.argv", ["kvlab", *arguments]):
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def files_of(fields, place: Path) -> dict[str, bytes]:
    run(RunConfig.of(fields)).save(place)
    return {file.name: file.read_bytes() for file in place.iterdir()}


def test_compare_prints_what_became_of_drafts(capsys, tmp_path):
    options = ("--policies", "paged,ring", "--speculate", "4", "--acceptance", "0.8")
    assert main(*COMMON, *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    for summary in found.values():
        assert summary.keys() >= METRICS
        assert summary["acceptance_length"] == pytest.approx(3.3616, rel=0.05)
        assert summary["decode_tokens"] + summary["requests_completed"] == summary["output_tokens"]
        assert summary["accepted_at_1"] / summary["drafts"] == pytest.approx(0.8, abs=0.04)
    assert found["paged"]["accepted_tokens"] == found["ring"]["accepted_tokens"]
    run(RunConfig.of(SETTING | {"speculation": DRAFTS})).save(tmp_path / "run")
    stored = RunResult.load(tmp_path / "run")
    assert stored.summary["accepted_tokens"] == found["paged"]["accepted_tokens"]
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["speculation"] == {"tokens": 4, "acceptance": [0.8]}
    again = run(RunConfig.of(config))
    assert again.summary["accepted_tokens"] == found["paged"]["accepted_tokens"]
    assert main(*COMMON, *options) == 0
    assert "of them accepted; a decoding sequence got" in capsys.readouterr().out


def test_without_drafts_nothing_of_them_is_stored(tmp_path):
    plain = files_of(SETTING, tmp_path / "plain")
    assert b"specul" not in plain["config.toml"]
    assert not METRICS & json.loads(plain["summary.json"]).keys()
    off = files_of(SETTING | {"speculation": DRAFTS | {"tokens": 0}}, tmp_path / "off")
    del plain["config.toml"], off["config.toml"]
    assert plain == off


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    fields = SETTING | {"speculation": DRAFTS}
    one = files_of(fields, tmp_path / "a")
    assert files_of(fields, tmp_path / "b") == one
    exact = files_of(fields | {"exact_steps": True}, tmp_path / "c")
    assert {name for name in one if one[name] != exact[name]} == {"config.toml"}
    other = files_of(fields | {"seed": 1}, tmp_path / "d")
    assert other["summary.json"] != one["summary.json"]


def test_latencies_follow_the_tokens():
    plain, drafts = (
        run(RunConfig.of(SETTING | more)).summary for more in ({}, {"speculation": DRAFTS})
    )
    assert plain["output_tokens"] == drafts["output_tokens"]
    # A step takes about as long (fewer sequences run at once), and brings three times as much.
    assert 0.95 < drafts["itl_s"]["mean"] / plain["itl_s"]["mean"] < 1.2
    assert 2.5 < plain["tpot_s"]["mean"] / drafts["tpot_s"]["mean"] < 3.4
    share = run(RunConfig.of(SETTING | {"speculation": DRAFTS | {"draft_cost": 0.1}})).summary
    assert share["itl_s"]["p50"] / drafts["itl_s"]["p50"] == pytest.approx(1.4, rel=0.02)


def test_a_draft_model_takes_time_and_memory():
    large = {"model": "llama-3.1-70b", "tensor_parallel": 4}
    fields = SETTING | large | {"speculation": DRAFTS}
    free = RunConfig.of(fields)
    drafted = RunConfig.of(fields | {"speculation": DRAFTS | {"draft": "llama-3.1-8b"}})
    # 80 layers and 32 layers with as many K/V heads; and 8 billion weights less, on 4 devices.
    assert drafted.budget().bytes < free.budget().bytes * 80 / 112
    assert drafted.budget().bytes == pytest.approx(
        (free.budget().bytes - 2 * 8.03e9 / 4) * 80 / 112, rel=0.001
    )
    tokens = SETTING | large | {"kv_tokens": 10_000, "speculation": drafted.speculation}
    assert RunConfig.of(tokens).budget().bytes == 10_000 * free.budget().model.token_bytes()
    slower, faster = run(drafted).summary, run(free).summary
    assert slower["accepted_tokens"] == faster["accepted_tokens"]
    # The draft model reads a ninth of the weights in each of its four passes.
    assert 1.35 < slower["itl_s"]["p50"] / faster["itl_s"]["p50"] < 1.9


def test_replicas_and_disaggregation_count_all_drafts():
    alone = run(RunConfig.of(SETTING | {"speculation": DRAFTS})).summary
    for cluster in ({"replicas": 2}, {"prefill_replicas": 1, "decode_replicas": 1}):
        both = run(RunConfig.of(SETTING | {"speculation": DRAFTS, "cluster": cluster})).summary
        assert both["output_tokens"] == alone["output_tokens"]
        assert both["decode_tokens"] <= alone["decode_tokens"]
        assert both["acceptance_length"] == pytest.approx(alone["acceptance_length"], rel=0.05)


def test_a_study_varies_the_draft_length():
    study = Study.of(
        {
            **{name: value for name, value in SETTING.items() if name != "policy"},
            "policies": ["paged"],
            "speculation": {"tokens": 0, "acceptance": 0.7},
            "grid": {"speculation.tokens": [0, 2, 6]},
            "seeds": 1,
        }
    )
    lengths = [run(point.config).summary.get("acceptance_length") for point in points_of(study)]
    assert lengths[0] is None
    assert lengths[1:] == [pytest.approx(2.19, rel=0.06), pytest.approx(3.06, rel=0.06)]


ERRORS = [
    (("--speculate", "4"), "speculation.acceptance: field required"),
    (("--acceptance", "0.5"), "speculation.tokens: field required"),
    (("--speculate", "4", "--acceptance", "0.8,0.7"), "expected one rate or 4, one a token, not 2"),
    (("--speculate", "2", "--acceptance", "0.7,0.8"), "expected rates that do not rise"),
    (("--speculate", "2", "--acceptance", "1.5"), "less than or equal to 1, not '1.5'"),
    (("--speculate", "2", "--acceptance", "0.5", "--draft", "nothing"), "unknown model 'nothing'"),
    (
        ("--speculate", "2", "--acceptance", "0.5", "--draft", "mamba-2.8b"),
        "speculation.draft: mamba-2.8b has layers that keep states",
    ),
    (
        ("--speculate", "2", "--acceptance", "0.5", "--draft", "opt-13b", "--draft-cost", "0.1"),
        "expected draft or draft_cost, not both",
    ),
    (
        ("--speculate", "2", "--acceptance", "0.5", "--policies", "radix"),
        "policy 'radix' takes no tokens back",
    ),
]


@pytest.mark.parametrize(("options", "words"), ERRORS)
def test_wrong_settings_are_one_line(capsys, options, words):
    assert main(*COMMON, *options) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error
