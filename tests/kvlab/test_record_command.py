"""`kvlab record` as a user meets it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kvlab.cli import application
from workloads.errors import InputError


def run(*args: str):
    return CliRunner().invoke(application(), ["record", *args])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--engine", "ollama"], "--engine ollama: expected llama.cpp or vllm"),
        (["--engine", "vllm", "--kind", "huge"], "--kind huge: expected one of full_nocache, "),
        (["--model", "lama"], "--model lama: expected one of llama, gemma2"),
        (["--layout", "ring"], "--layout ring: expected one of unified, streams, both"),
        (["--profile", "busy"], "--profile busy: expected one of mixed, fill, all"),
        (["--script", "nowhere.jsonl"], "nowhere.jsonl:1: cannot be read"),
    ],
)
def test_what_is_not_known_is_named(tmp_path: Path, arguments, expected):
    error = run("--out", str(tmp_path), *arguments).exception
    assert isinstance(error, InputError) and expected in str(error)


@pytest.mark.parametrize("missing", ["xllamacpp", "gguf"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch, missing):
    find = importlib.util.find_spec
    others = {"xllamacpp": None, "gguf": find("sys")}
    monkeypatch.setattr(
        "backends.recorder.library.importlib.util.find_spec",
        lambda name: None if name == missing else find(name) or others.get(name),
    )
    monkeypatch.setattr(
        "backends.recorder.process.find_spec",
        lambda name: None if name == missing else find("sys"),
    )
    library = [] if missing == "xllamacpp" else ["--library", "llama.so"]
    error = run("--out", str(tmp_path / "out"), *library).exception
    assert isinstance(error, InputError)
    assert f"needs the package {missing}: pip install 'kvlab[conformance]'" in str(error)
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder_to_write_into(tmp_path: Path):
    pytest.importorskip("gguf", reason="gguf is not installed (extra: conformance)")
    taken = tmp_path / "taken"
    taken.write_text("")
    error = run("--out", str(taken), "--library", "llama.so").exception
    assert isinstance(error, InputError) and "taken: no folder to write into" in str(error)


def test_the_seed_is_said_and_the_recordings_replay(tmp_path: Path):
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (extra: conformance)")
    pytest.importorskip("gguf", reason="gguf is not installed (extra: conformance)")
    result = run("--out", str(tmp_path), "--model", "lfm2", "--ops", "5", "--profile", "mixed")
    assert result.exit_code == 0, result.output
    seed = int(result.stdout.splitlines()[0].removeprefix("seed "))
    names = [f"lfm2_u_{seed:06d}.jsonl.gz", f"lfm2_s_{seed + 1:06d}.jsonl.gz"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    replayed = CliRunner().invoke(application(), ["conform", str(tmp_path)])
    assert "2 traces" in replayed.stdout and "0 mismatches" in replayed.stdout
