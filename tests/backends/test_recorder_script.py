"""Scripts: recordings without answers, or with answers that are ignored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.conformance.recording import read_records
from backends.recorder.script import DEFAULTS, Scripted, read_script
from workloads.errors import InputError

RECORDINGS = Path(__file__).parent / "recordings"
HEADER = {"model": "llama", "config": {"n_ctx": 512}}
DECODE = {"op": "decode", "runs": [[[0], 0, 3]]}


def script(folder: Path, *records: object) -> Path:
    path = folder / "s.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("path", sorted((RECORDINGS / "scripts").glob("*.jsonl")), ids=str)
def test_a_script_asks_what_its_recording_was_asked(path):
    recording = RECORDINGS / "llamacpp" / f"{path.stem}.jsonl.gz"
    asked, again = read_script(path), read_script(recording)
    assert asked == again
    assert asked.operations == [r for _, r in read_records(path)][1:]


def test_a_recording_is_a_script(tmp_path):
    answered = {"type": "op", "i": 0, **DECODE, "ret": 0, "ev": [], "obs": {}}
    killed = {"type": "abort", "signal": 6, "pending": {"i": 1, "op": "can_shift"}, "stderr": ""}
    path = script(tmp_path, {"type": "header", **HEADER}, {"type": "init"}, answered, killed)
    read = read_script(path)
    assert read.config == DEFAULTS | {"n_ctx": 512}
    assert read.operations == [DECODE, {"op": "can_shift"}]
    source = Scripted(read.operations)
    assert [source.next([]), source.next([]), source.next([])] == [*read.operations, None]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], ":1: 'model' is None"),
        ([{"model": "lama"}], ":1: 'model' is 'lama', expected one of llama"),
        ([{"model": "llama", "config": 3}], "'config' is 3"),
        ([{"model": "llama", "config": {"n_ctx": "3"}}], "'n_ctx' is '3', expected .* int"),
        ([{"model": "llama", "config": {"type_k": "q9"}}], "'type_k' is 'q9', expected one of f32"),
        ([{"model": "llama", "config": {"n_seq_max": 11}}], "more than 10 sequences"),
        ([HEADER, DECODE, {"op": "rm"}], ":3: 'op' is 'rm', expected one of decode"),
        ([HEADER, {"op": "seq_rm", "seq": 0}], ":2: seq_rm needs p0, p1"),
        ([HEADER, {"op": "seq_keep", "seq": "0"}], "'seq' of seq_keep is '0', expected an integer"),
        ([HEADER, {"op": "decode", "runs": [[0, 0, 1]]}], r"expected a list of \[\[sequences\]"),
        ([HEADER, {"op": "decode", "runs": [[[0], 0, 0]]}], r"expected a list of \[\[sequences\]"),
        (
            [HEADER, {"op": "state_load", "slot": 3, "seq": 0}],
            ":2: nothing has been saved in slot 3",
        ),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, records, expected):
    with pytest.raises(InputError, match=expected):
        read_script(script(tmp_path, *records))
