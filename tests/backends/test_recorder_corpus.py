"""The project's own recordings cover every kind of cache, layout, event and refusal.

That they are replayed without a mismatch is tested beside the replay.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from backends.conformance.llamacpp_models import TINY_MODELS
from backends.conformance.recording import find_recordings, read_records

RECORDINGS = Path(__file__).parent / "recordings" / "llamacpp"


@pytest.fixture(scope="module")
def recorded():
    return [[r for _, r in read_records(path)] for path in find_recordings(RECORDINGS)]


def test_models_layouts_and_profiles(recorded):
    headers = [records[0] for records in recorded]
    assert len(headers) == 42
    random = {
        (h["model"], h["config"]["kv_unified"], h["config"]["profile"])
        for h in headers
        if h["script"] is None
    }
    assert random == {
        (model, unified, profile)
        for model in TINY_MODELS
        for unified in (True, False)
        for profile in ("mixed", "fill")
    }
    configs = [h["config"] for h in headers]
    assert any(c["n_rs_seq"] for c in configs) and any(c["extra_seqs"] for c in configs)
    assert any(c["swa_full"] for c in configs) and any(c["pos0"] for c in configs)
    types = {(c["type_k"], c["type_v"]) for c in configs}
    assert {("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"), ("f32", "f32")} <= types


def test_events_refusals_and_ends(recorded):
    operations = [r for records in recorded for r in records if r["type"] == "op"]
    events = Counter(event["ev"] for op in operations for event in op["ev"])
    assert all(events[e] > 50 for e in ("ubatch", "slot", "purge", "kshift", "copy")), events
    decodes = Counter(op["ret"] for op in operations if op["op"] == "decode")
    assert all(decodes[ret] > 50 for ret in (0, 1, -1)), decodes
    loads = Counter(op["ret"] > 0 for op in operations if op["op"] == "state_load")
    assert loads[True] and loads[False]
    ends = Counter(r.get("signal") for records in recorded for r in records[-1:])
    assert ends == {None: 40, 6: 1, 11: 1}
