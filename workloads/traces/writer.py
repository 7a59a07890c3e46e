"""Writing requests to kvlab's own trace format."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import IO

from workloads.errors import InputError
from workloads.request import Workload
from workloads.traces.jsonl import FIELDS, FORMAT, VERSION


def write_requests(workload: Workload, path: str | os.PathLike[str]) -> int:
    """Write all requests of an open-loop ``workload`` to ``path``; returns how many.

    The file replays to the same requests. It appears under its name only when it is complete.
    Raises `InputError` for a closed loop, whose requests wait for an engine, and for a file that
    cannot be written.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            written = _write(workload, file)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except OSError as error:
        os.unlink(name)
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
    except BaseException:
        os.unlink(name)
        raise
    return written


def _write(workload: Workload, file: IO[str]) -> int:
    # The count is known at the end only, so its place is kept free with blanks.
    file.write(_header(workload, 0))
    encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
    written = 0
    traffic = workload.traffic()
    for request in traffic.arrivals():
        if any(True for _ in traffic.completed(request, request.arrival)):
            raise InputError(
                f"{workload.name}: cannot be written: request {request.id} sets off another one "
                "when it ends, so the times depend on the engine"
            )
        file.write(encode({name: getattr(request, name) for name in FIELDS}) + "\n")
        written += 1
    file.seek(0)
    file.write(_header(workload, written))
    return written


def _header(workload: Workload, requests: int) -> str:
    identity = json.dumps(workload.prefix_identity)
    return (
        f'{{"format": "{FORMAT}", "version": {VERSION}, "prefix_identity": {identity}, '
        f'"requests": {requests:10}}}\n'
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
