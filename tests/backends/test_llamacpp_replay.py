"""Recordings of llama.cpp agree with our caches, and what the replay says when one does not."""

from __future__ import annotations

import copy
import gzip
import json
import os
from pathlib import Path

import pytest

from backends.conformance.llamacpp import check
from backends.conformance.llamacpp_models import TINY_MODELS, geometry_as_json, geometry_from
from backends.conformance.llamacpp_view import EventLog, cells_of, maps_of
from sim.llamacpp.context import Context
from sim.llamacpp.sizes import ContextParams
from workloads.errors import InputError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHARED = Path(os.environ.get("KVLAB_SHARED", ROOT.parent / "shared")) / "conformance" / "llamacpp"
OWN = HERE / "recordings" / "llamacpp"

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("part", ["corpus", "probes", "memsize.jsonl.gz"])
def test_shared_recordings_agree(part):
    if not (SHARED / part).exists():
        pytest.skip(f"no recordings at {SHARED / part}")
    report = check(SHARED / part)
    assert report.mismatches == 0, report.first
    assert report.operations > 500


def test_own_recordings_agree():
    if not OWN.is_dir():
        pytest.skip(f"no recordings at {OWN}")
    report = check(OWN)
    assert report.mismatches == 0, report.first
    assert report.traces > 0


CONFIG = {
    "n_ctx": 256,
    "n_batch": 64,
    "n_ubatch": 32,
    "n_seq_max": 2,
    "kv_unified": True,
    "swa_full": False,
    "type_k": "f16",
    "type_v": "f16",
    "flash_attn": False,
    "n_rs_seq": 0,
}
OPERATIONS = [
    {"op": "decode", "runs": [[[0], 0, 40], [[1], 0, 3]]},
    {"op": "decode", "runs": [[[0], 41, 1]]},
    {"op": "seq_rm", "seq": 0, "p0": 10, "p1": 20},
    {"op": "seq_add", "seq": 0, "p0": 20, "p1": -1, "d": -10},
    {"op": "decode", "runs": [[[1], 3, 12]]},
    {"op": "state_save", "seq": 1, "slot": 0},
    {"op": "state_load", "seq": 0, "slot": 0},
]


def recorded():
    """A recording of ourselves, in the form that a recorder writes."""
    context = Context(TINY_MODELS["llama"], ContextParams(**CONFIG))
    log = EventLog()
    context.observe(log)
    saved = {}

    def observed():
        return {
            "pos": [list(context.seq_pos(s)) for s in range(2)],
            "size": [context.state_seq_size(s) for s in range(2)],
            "cells": cells_of(context.state_save()),
            "maps": maps_of(context),
        }

    cache = {"cells": 256, "layers": 2, "n_seq_max": 2, "n_stream": 1}
    header = {
        "type": "header",
        "lib": "llama.cpp of this test",
        "model": "llama",
        "kind": "kv",
        "config": CONFIG,
        "n_ctx": 256,
        "n_ctx_seq": 256,
        "n_batch": 64,
        "n_ubatch": 32,
        "n_seq_max": 2,
        "n_seqs_observed": 2,
        "single_stream": True,
        "caches": {"kv": cache},
        "can_shift": True,
    }
    records = [header, {"type": "init", "obs": observed()}]
    for i, op in enumerate(OPERATIONS):
        record = {"type": "op", "i": i} | op
        if op["op"] == "decode":
            record["ret"] = context.decode(op["runs"]).ret
        elif op["op"] == "seq_rm":
            record["ret"] = context.seq_rm(op["seq"], op["p0"], op["p1"])
        elif op["op"] == "seq_add":
            record["ret"] = context.seq_add(op["seq"], op["p0"], op["p1"], op["d"])
        elif op["op"] == "state_save":
            saved[op["slot"]] = context.state_seq_save(op["seq"])
            record["ret"] = saved[op["slot"]].nbytes
            record["blob"] = cells_of(saved[op["slot"]])
        else:
            record["ret"] = context.state_seq_load(saved[op["slot"]], op["seq"])
        records.append(record | {"ev": log.take(), "obs": observed()})
    return [*records, {"type": "end", "status": "ok", "ops": len(OPERATIONS), "secs": 0.1}]


@pytest.fixture(scope="module")
def records():
    return json.loads(json.dumps(recorded()))


def written(folder, records, name="trace.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def replayed(folder, records):
    return check(written(folder, records))


def test_a_recording_of_ourselves_agrees(records, tmp_path):
    report = replayed(tmp_path, records)
    assert (report.traces, report.operations, report.mismatches) == (1, len(OPERATIONS), 0)
    assert report.summary() == "1 traces, 7 operations, 0 mismatches"


def changed(records, line, path, value):
    records = copy.deepcopy(records)
    place = records[line]
    for key in path[:-1]:
        place = place[key]
    assert place[path[-1]] != value
    place[path[-1]] = value
    return records


@pytest.mark.parametrize(
    ("line", "path", "value", "says"),
    [
        (0, ["n_ctx_seq"], 512, "header.n_ctx_seq"),
        (0, ["can_shift"], False, "header.can_shift"),
        (1, ["obs", "size"], [17, 16], "obs.size[0]"),
        (2, ["ret"], 1, "ret"),
        (2, ["ev", 0, "n_tokens"], 31, "ev[0]"),
        (2, ["ev", 2, "st", 0, "head"], 5, "ev[2].st[0]"),
        (2, ["obs", "pos", 1], [0, 3], "obs.pos"),
        (4, ["obs", "maps", "kv", "head"], 11, "obs.maps.kv"),
        (4, ["obs", "maps", "kv", "runs", 0], [0, "1", 0, 10], "obs.maps.kv"),
        (4, ["obs", "cells", "kv", 0, 0], [[0, 1], 0, 10], "obs.cells.kv[0]"),
        (5, ["ret"], 7, "ret"),
        (6, ["ev"], [], "ev[0]"),
        (7, ["blob", "kv", 0], [], "blob.kv"),
        (7, ["ret"], 1, "ret"),
        (8, ["ret"], 0, "ret"),
    ],
)
def test_a_difference_is_found_and_named(records, tmp_path, line, path, value, says):
    report = replayed(tmp_path, changed(records, line, path, value))
    assert report.mismatches == 1
    assert f"trace.jsonl:{line + 1}" in report.first
    assert f"differs in {says}" in report.first


def test_a_reason_that_the_engine_logged_is_compared(records, tmp_path):
    said = {"ev": "log", "lvl": "err", "msg": "init: sequence 0 positions are not continuous"}
    tampered = copy.deepcopy(records)
    tampered[3]["ev"].append(said)
    assert "differs in refusal" in replayed(tmp_path, tampered).first
    said["msg"] = "init: the tokens of sequence 0 have inconsistent sequence positions"
    tampered[3]["ev"][-1] = said
    assert replayed(tmp_path, tampered).mismatches == 0


def test_maps_are_shown_side_by_side(records, tmp_path):
    tampered = changed(records, 4, ["obs", "maps", "kv", "runs", 1, 0], 21)
    text = replayed(tmp_path, tampered).first
    assert "operation 2: seq_rm(seq=0, p0=10, p1=20)" in text or "operation 2" in text
    assert "engine" in text.splitlines()[3]
    assert "kvlab" in text.splitlines()[3]
    assert any(line.lstrip().startswith("* cells 21-") for line in text.splitlines())


def test_a_trace_is_not_followed_beyond_its_first_difference(records, tmp_path):
    report = replayed(tmp_path, changed(records, 3, ["obs", "pos", 0], [0, 38]))
    assert report.operations == 2


def test_a_call_that_ended_the_engine_must_be_refused(records, tmp_path):
    abort = {"type": "abort", "signal": 6, "stderr": "GGML_ASSERT(...) failed"}
    fatal = abort | {"pending": {"i": 7, "op": "seq_rm", "seq": 300, "p0": -1, "p1": -1}}
    assert replayed(tmp_path, [*records[:-1], fatal]).mismatches == 0
    harmless = abort | {"pending": {"i": 7, "op": "seq_rm", "seq": 1, "p0": -1, "p1": -1}}
    report = replayed(tmp_path, [*records[:-1], harmless])
    assert "differs in end of the process" in report.first
    assert report.operations == len(OPERATIONS) + 1


def test_an_operation_we_refuse_but_the_engine_does_not_is_a_difference(records, tmp_path):
    tampered = changed(records, 4, ["seq"], 300)
    assert "EngineAborts" in replayed(tmp_path, tampered).first


def test_a_recording_without_a_header_is_set_aside(tmp_path):
    report = replayed(tmp_path, [{"type": "abort", "signal": 6, "pending": None, "stderr": ""}])
    assert (report.traces, report.mismatches, len(report.skipped)) == (0, 0, 1)
    assert "1 not replayable" in report.summary()


def test_folders_and_compressed_files(records, tmp_path):
    (tmp_path / "deeper").mkdir()
    written(tmp_path, records)
    text = written(tmp_path / "deeper", records).read_bytes()
    (tmp_path / "deeper" / "b.jsonl.gz").write_bytes(gzip.compress(text))
    written(tmp_path, [{"type": "header", "lib": "another engine"}], "other.jsonl")
    (tmp_path / "notes.txt").write_text("not a recording")
    report = check(tmp_path)
    assert (report.traces, report.operations) == (3, 3 * len(OPERATIONS))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], r"trace.jsonl:\d+: not JSON"),
        (lambda text: text[: text.rindex("\n", 0, len(text) - 1) + 1], "breaks off"),
        (lambda text: text.replace('"type": "op"', '"type": "oops"', 1), "unknown record type"),
        (lambda text: text.replace('"obs": ', '"obz": ', 1), r"trace.jsonl:2: .*'obs'"),
        (lambda text: text.replace('"model": "llama"', '"model": "llana"'), "llana"),
        (lambda text: "[1]\n" + text, "expected a JSON object"),
        (lambda text: "", "empty"),
    ],
)
def test_damaged_files_are_named_with_their_line(records, tmp_path, damage, says):
    path = written(tmp_path, records)
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=says) as caught:
        check(path)
    assert "\n" not in str(caught.value)
    assert "trace.jsonl" in str(caught.value)


def test_damaged_archives_and_missing_files(records, tmp_path):
    whole = gzip.compress(written(tmp_path, records).read_bytes())
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz:"):
        check(cut)
    with pytest.raises(InputError, match="no such file"):
        check(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no recordings"):
        check(tmp_path / "empty")
    with pytest.raises(InputError, match=r"not a recording of llama\.cpp"):
        check(written(tmp_path, [{"type": "header", "lib": "another engine"}], "other.jsonl"))


@pytest.mark.parametrize("name", TINY_MODELS)
def test_geometry_travels_in_a_header(name):
    spelled = json.loads(json.dumps(geometry_as_json(TINY_MODELS[name])))
    assert geometry_from(spelled) == TINY_MODELS[name]


def test_a_header_may_spell_out_an_unknown_model(records, tmp_path):
    tampered = changed(records, 0, ["model"], "mine")
    tampered[0]["geometry"] = geometry_as_json(TINY_MODELS["llama"])
    assert replayed(tmp_path, tampered).mismatches == 0
