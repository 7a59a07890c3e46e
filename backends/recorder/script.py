"""Operations to record that are given in a file, rather than drawn.

A script is a recording whose answers are left out, or are there and ignored: a header with
``model`` and ``config``, then operations, one JSON object a line. Any recording can thus be made
again with another library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.conformance.llamacpp_models import TINY_MODELS
from backends.conformance.recording import Record, read_records
from backends.recorder.dump import MAX_SEQS
from backends.recorder.params import GGML_TYPES
from backends.recorder.trace import ARGUMENTS
from workloads.errors import InputError

#: What a script's ``config`` need not say, and the type of everything that it can say.
DEFAULTS: dict[str, Any] = {
    "n_ctx": 256,
    "n_batch": 512,
    "n_ubatch": 512,
    "n_seq_max": 4,
    "kv_unified": True,
    "swa_full": False,
    "type_k": "f16",
    "type_v": "f16",
    "flash_attn": False,
    "n_rs_seq": 0,
    "extra_seqs": 0,
    "pos0": 0,
    "peek": True,
    "bare": False,
    "profile": "script",
}
#: Records of a recording that are answers, not questions.
_ANSWERS = ("init", "end")


@dataclass(frozen=True, slots=True)
class Script:
    """A model's name, a context's ``config`` and the operations asked of it."""

    model: str
    config: dict[str, Any]
    operations: list[Record]


class Scripted:
    """A `Source` of given operations."""

    def __init__(self, operations: Sequence[Record]) -> None:
        self._left = iter(operations)

    def next(self, positions: list[list[int]]) -> Record | None:
        """See `backends.recorder.trace.Source`."""
        return next(self._left, None)


def read_script(path: Path) -> Script:
    """Read a script. Raises `InputError` naming file and line where it cannot be used."""
    records = read_records(path)
    line, header = next(records, (1, {}))
    where = f"{path}:{line}"
    model = header.get("model")
    if model not in TINY_MODELS:
        known = ", ".join(TINY_MODELS)
        raise InputError(f"{where}: 'model' is {model!r}, expected one of {known}")
    config = _config(header.get("config", {}), where)
    operations: list[Record] = []
    saved = set()
    for line, record in records:
        if record.get("type") in _ANSWERS:
            continue
        asked = record.get("pending") if record.get("type") == "abort" else record
        if asked is None:
            continue
        operation = _operation(asked, f"{path}:{line}")
        slot = operation.get("slot")
        if operation["op"].startswith("state_save"):
            saved.add(slot)
        elif slot is not None and slot not in saved:
            raise InputError(f"{path}:{line}: nothing has been saved in slot {slot}")
        operations.append(operation)
    return Script(model, config, operations)


def _config(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InputError(f"{where}: 'config' is {given!r}, expected an object")
    for name, value in given.items():
        expected = type(DEFAULTS.get(name))
        if name in DEFAULTS and type(value) is not expected:
            what = expected.__name__
            raise InputError(
                f"{where}: config {name!r} is {value!r}, expected a value of type {what}"
            )
    config = DEFAULTS | {name: value for name, value in given.items() if name in DEFAULTS}
    for name in ("type_k", "type_v"):
        if config[name] not in GGML_TYPES:
            known = ", ".join(GGML_TYPES)
            raise InputError(
                f"{where}: config {name!r} is {config[name]!r}, expected one of {known}"
            )
    if config["n_seq_max"] + config["extra_seqs"] > MAX_SEQS:
        raise InputError(f"{where}: more than {MAX_SEQS} sequences cannot be told apart in a dump")
    return config


def _operation(record: Record, where: str) -> Record:
    """The question in ``record``: name and arguments."""
    name = record.get("op")
    if name not in ARGUMENTS:
        raise InputError(f"{where}: 'op' is {name!r}, expected one of {', '.join(ARGUMENTS)}")
    missing = [key for key in ARGUMENTS[name] if key not in record]
    if missing:
        raise InputError(f"{where}: {name} needs {', '.join(missing)}")
    optional = ["flags"] if name in ("state_save", "state_load") and "flags" in record else []
    asked = {key: record[key] for key in (*ARGUMENTS[name], *optional)}
    for key, value in asked.items():
        if not (_are_runs(value) if key == "runs" else isinstance(value, int)):
            expected = "a list of [[sequences], position, n]" if key == "runs" else "an integer"
            raise InputError(f"{where}: {key!r} of {name} is {value!r}, expected {expected}")
    return {"op": name} | asked


def _are_runs(value: Any) -> bool:
    return isinstance(value, list) and all(_is_run(run) for run in value)


def _is_run(run: Any) -> bool:
    match run:
        case [[*seqs], int(), int(n)]:
            return n > 0 and bool(seqs) and all(isinstance(seq, int) for seq in seqs)
    return False
