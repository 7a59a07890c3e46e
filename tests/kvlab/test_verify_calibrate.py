"""`kvlab verify` and `kvlab calibrate` from the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backends.calibrate import run
from backends.calibrate.plan import Extent
from backends.calibrate.timing import Effort
from backends.verification import scenarios
from kvlab.cli import application
from workloads.errors import InputError

TINY = Extent(
    cells=512,
    copied=(1 << 12, 1 << 14),
    square=(16, 32),
    rows=(16,),
    batches=(1,),
    lengths=(32,),
    chunks=(8,),
    prefixes=(0,),
    tokens=(1, 4),
    widest=64,
)
WORKLOAD = ["--workload", "batch:prompt=constant:tokens=20,output=constant:tokens=5"]


def kvlab(*args: str):
    return CliRunner().invoke(application(), list(args))


def refusal(*args: str) -> str:
    error = kvlab(*args).exception
    assert isinstance(error, InputError), error
    return str(error)


def test_scenarios_are_run_and_counted(monkeypatch):
    monkeypatch.setattr(scenarios, "GENERAL", scenarios.GENERAL[:2])
    own = {"iswa": scenarios.GENERAL[-2:], "contiguous": scenarios.ESPECIALLY["contiguous"]}
    monkeypatch.setattr(scenarios, "ESPECIALLY", own)
    monkeypatch.setattr(scenarios, "FORMATS", {})
    result = kvlab("verify", "--policy", "iswa,contiguous", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    for group in found.values():
        assert all(each["passed"] and each["outputs"] for each in group.values())
    for policy, group in found.items():
        made = {each.name for each in (*scenarios.GENERAL, *scenarios.ESPECIALLY[policy])}
        assert made <= group.keys()


def test_a_table_is_printed_for_people():
    result = kvlab("verify", "--policy", "none", *WORKLOAD, "--requests", "3")
    assert result.exit_code == 0, result.exception
    assert "passed" in result.stdout and "outputs" in result.stdout


def test_a_wrong_policy_fails(monkeypatch):
    from sim.policies.contiguous import Contiguous

    sound = Contiguous.cells_of

    def broken(self, seq, group=0):
        positions, cells = sound(self, seq, group)
        return positions, cells + (seq.id == 1)

    monkeypatch.setattr(Contiguous, "cells_of", broken)
    result = kvlab("verify", "--policy", "contiguous", *WORKLOAD, "--requests", "3")
    assert result.exit_code == 1
    assert "FAILED" in result.stdout and "Sequence(1," in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--policy", "pagd"], "unknown policy 'pagd'; did you mean 'paged'"),
        (["--policy", "recurrent"], "recurrent: every scenario is refused"),
        (["--backend", "numpi"], "unknown backend 'numpi'"),
        (["--model", "llama-3.1-8b"], "--model and --policy-option go with --workload"),
        (["--policy", "ring", *WORKLOAD, "--kv-type", "fp8"], "ring: cache type 'fp8'"),
        ([*WORKLOAD, "--policy-option", "block"], "--policy-option block: expected KEY=VALUE"),
    ],
)
def test_what_cannot_be_verified_is_refused_in_one_line(args, message):
    line = refusal("verify", *args)
    assert message in line and "\n" not in line


def test_a_calibration_is_written_and_its_errors_are_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "EXTENTS", {("numpy", True): TINY})
    monkeypatch.setattr(run, "QUICK", Effort(repeats=3, warmup=0, seconds=0.001))
    out = tmp_path / "cpu.json"
    model = tmp_path / "small.toml"
    model.write_text(
        "layers = 2\nhidden = 64\nvocab = 64\n"
        "[layer.attention]\nheads = 4\nkv_heads = 2\nhead_dim = 32\n"
        "[layer.feed_forward]\nintermediate = 64\n"
    )
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 9000.5, 0.0))
    result = kvlab("calibrate", "--quick", "--model", str(model), "--out", str(out))
    assert result.exit_code == 0, result.exception
    assert "This machine was busy: 9000.5 processors were wanted" in result.stdout
    data = json.loads(out.read_text())
    assert data["date"] and data["kv_types"] == ["f16"]
    assert "decode f16" in result.stdout and f"calibration:{out}" in result.stdout


def test_a_calibration_that_cannot_be_made_is_refused(tmp_path):
    out = str(tmp_path / "out.json")
    assert "deepseek-v3: a latent (MLA) cache" in refusal(
        "calibrate", "--model", "deepseek-v3", "--out", out
    )
    prefill = ("calibrate", "--out", out, "--prefill")
    assert "prefill 'cudnn': expected backend cupy, not numpy" in refusal(*prefill, "cudnn")
    assert "unknown prefill 'cudn'; did you mean 'cudnn'" in refusal(*prefill, "cudn")
    assert "has no times; expected numpy or cupy" in refusal(
        "calibrate", "--backend", "emulated", "--out", out
    )
