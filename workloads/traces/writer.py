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
    """Write all requests of ``workload`` to ``path``; returns how many.

    The file replays to the same requests, those that wait for the ends of others included, and
    what is written of the replay is the same file. It appears under its name only when it is
    complete. Raises `InputError` for a closed loop that cannot say what waits for what, and for a
    file that cannot be written.
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
    traffic = workload.traffic()
    # The count is known at the end only, so its place is kept free with blanks.
    file.write(_header(workload, traffic.clients, 0))
    encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
    written = 0
    for session in traffic.sessions():
        for place, request in enumerate(session):
            row = {name: getattr(request, name) for name in FIELDS}
            if place:
                row["after"] = request.after
            file.write(encode(row) + "\n")
        written += len(session)
    file.seek(0)
    file.write(_header(workload, traffic.clients, written))
    return written


def _header(workload: Workload, clients: int | None, requests: int) -> str:
    fields = [f'"format": "{FORMAT}", "version": {VERSION}']
    fields += [f'"prefix_identity": {json.dumps(workload.prefix_identity)}']
    fields += [f'"clients": {clients}'] if clients is not None else []
    return f'{{{", ".join(fields)}, "requests": {requests:10}}}\n'


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
