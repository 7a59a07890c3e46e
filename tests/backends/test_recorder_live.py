"""Recording llama.cpp itself, where it is installed."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from backends.conformance.llamacpp import check
from backends.conformance.llamacpp_models import TINY_MODELS
from backends.conformance.recording import find_recordings, read_records
from backends.recorder.configs import PROFILES
from backends.recorder.jobs import Job, random_jobs
from backends.recorder.library import find_library, load_library, name_of
from backends.recorder.process import record
from backends.recorder.script import DEFAULTS, read_script
from workloads.errors import InputError

pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (extra: conformance)")
pytest.importorskip("gguf", reason="gguf is not installed (extra: conformance)")

RECORDINGS = Path(__file__).parent / "recordings" / "llamacpp"
OPS = 40


@pytest.fixture(scope="module")
def library():
    return find_library()


def test_fresh_recordings_replay_without_a_mismatch(library, tmp_path, capsys):
    seed = secrets.randbelow(1_000_000)
    profile = PROFILES[seed % 2]
    how = f"kvlab record --seed {seed} --ops {OPS} --profile {profile}"
    with capsys.disabled():
        print(f"\nrecording llama.cpp as by: {how}")
    jobs = random_jobs(TINY_MODELS, (True, False), (profile,), seed, OPS)
    done = list(record(jobs, tmp_path, library))
    assert len(done) == 2 * len(TINY_MODELS)
    assert [d for d in done if d.signal is not None] == [], how
    report = check(tmp_path)
    assert report.mismatches == 0, f"{how}\n{report.first}"
    assert report.operations == sum(d.operations for d in done)


def test_looking_changes_nothing(library, tmp_path):
    """The same operations, seen with and without a look at cells and maps, go the same way."""
    jobs = list(random_jobs(["gemma2", "jamba"], (True,), ("fill",), 5, 60))
    bare = []
    for done, job in zip(record(jobs, tmp_path, library), jobs, strict=True):
        asked = read_script(done.path)
        config = asked.config | {"peek": False, "bare": True}
        bare.append(Job(f"{job.name}_bare", job.model, config, operations=asked.operations))
    for done, job in zip(record(bare, tmp_path, library), jobs, strict=True):
        looked = [r for _, r in read_records(tmp_path / f"{job.name}.jsonl.gz")]
        unseen = [r for _, r in read_records(done.path)]
        assert "maps" in looked[2]["obs"] and set(unseen[2]["obs"]) == {"pos", "size"}
        assert len(looked) == len(unseen) > 60
        for a, b in zip(looked[2:-1], unseen[2:-1], strict=True):
            assert (a["ret"], a["ev"], a["obs"]["pos"]) == (b["ret"], b["ev"], b["obs"]["pos"])


def test_the_end_of_the_engine_is_recorded_and_the_next_job_done(library, tmp_path):
    config = DEFAULTS | {"n_batch": 8}
    one, many = {"op": "decode", "runs": [[[0], 0, 1]]}, {"op": "decode", "runs": [[[1], 0, 9]]}
    jobs = [
        Job("fatal", "llama", config, operations=[one, many, one]),
        Job("none", "llama", DEFAULTS | {"n_batch": 2}, operations=[one]),
        Job("fine", "llama", config, operations=[one]),
    ]
    fatal, none, fine = record(jobs, tmp_path, library)
    assert (fatal.operations, fatal.signal) == (1, 6)
    *_, last = (r for _, r in read_records(fatal.path))
    assert last["type"] == "abort" and last["pending"] == {"i": 1, **many}
    assert "n_tokens_all <= cparams.n_batch" in last["stderr"]
    (no_context,) = (r for _, r in read_records(none.path))
    assert no_context["type"] == "abort" and no_context["pending"] is None
    assert (fine.operations, fine.signal) == (1, None)
    report = check(tmp_path)
    assert report.mismatches == 0, report.first
    assert len(report.skipped) == 1


def test_the_recordings_in_the_tests_are_recorded_again(library, tmp_path):
    """The library that they were made with gives the same answers to the same questions."""
    made_by = name_of(load_library(library), library)
    kept = [p for p in find_recordings(RECORDINGS) if p.name.startswith(("llama4_u", "mamba_s"))]
    jobs = []
    for path in kept:
        (_, header) = next(read_records(path))
        if header["lib"] != made_by:
            pytest.skip(f"recorded with {header['lib']}, not {made_by}")
        asked = read_script(path)
        name = path.name.removesuffix(".jsonl.gz")
        jobs.append(Job(name, asked.model, asked.config, operations=asked.operations))
    for path, done in zip(kept, record(jobs, tmp_path, library), strict=True):
        (_, header), *before = read_records(path)
        (_, again), *now = read_records(done.path)
        assert now == before
        assert again | {"seed": header["seed"]} == header


def test_what_llama_cpp_refuses_is_said(library, tmp_path):
    config = DEFAULTS | {"type_v": "q8_0"}
    with pytest.raises(InputError, match="makes no context of"):
        list(record([Job("v", "llama", config, operations=[])], tmp_path, library))
    damaged = tmp_path / "other.so"
    damaged.write_bytes(b"not a library")
    with pytest.raises(InputError, match=r"other\.so: cannot be loaded"):
        list(record([Job("v", "llama", DEFAULTS, operations=[])], tmp_path, damaged))


def test_our_search_costs_less_than_twice_that_of_the_engine(library, capsys):
    from backends.recorder.search_speed import measure_search

    speed = measure_search(library)
    with capsys.disabled():
        print(f"\n{speed.describe()}")
    assert 512 < speed.looked_at < 32_768
    assert speed.engine_search_s < speed.engine_apply_s
    assert speed.ratio < 2
