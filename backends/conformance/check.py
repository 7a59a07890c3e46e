"""Replaying recordings of whatever engine they are of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from backends.conformance import llamacpp, vllm
from backends.conformance.recording import find_recordings, first_record
from backends.conformance.report import Report
from workloads.errors import InputError

ENGINES = (llamacpp, vllm)


def check(paths: Iterable[Path]) -> Report:
    """Replay recordings and folders of them; every file is of one of `ENGINES`.

    Raises `InputError` for a damaged recording, or one of an engine that kvlab does not model.
    """
    report = Report()
    for path in paths:
        for recording in find_recordings(path):
            first = first_record(recording)
            engine = next((engine for engine in ENGINES if engine.recognises(first)), None)
            if engine is None:
                raise InputError(f"{recording}: not a recording of llama.cpp or vLLM")
            report.add(engine.replay(recording))
    return report
