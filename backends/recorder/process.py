"""Recording in a process of its own, which the engine may end, and writing the traces to files."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from backends.conformance.recording import Record
from backends.recorder.jobs import Job
from backends.recorder.library import INSTALL
from backends.recorder.log import DEBUG_ENVIRONMENT
from backends.recorder.tiny_models import write_model
from workloads.errors import InputError

#: Seed of the models' weights, which have no influence on what is recorded.
WEIGHTS_SEED = 1
#: Of what a process that ended said last, so much is kept.
_LAST_WORDS = 2000


@dataclass(frozen=True, slots=True)
class Recorded:
    """A trace that was written: its file, how many operations it has, the signal that ended it."""

    path: Path
    operations: int
    signal: int | None


def record(jobs: Iterable[Job], out: Path, library: Path) -> Iterator[Recorded]:
    """Record every job into ``out/NAME.jsonl.gz``; equal jobs and libraries give equal files.

    Raises `InputError` where the package ``gguf`` is missing, ``out`` cannot be a folder, or the
    library cannot do a job.
    """
    if find_spec("gguf") is None:
        raise InputError(f"recording llama.cpp needs the package gguf: {INSTALL}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: no folder to write into ({error.strerror})") from error
    with (
        tempfile.TemporaryDirectory(prefix="kvlab-models-") as models,
        contextlib.closing(Worker(library, Path(models))) as worker,
    ):
        for job in jobs:
            model = Path(models) / f"{job.model}.gguf"
            if not model.exists():
                write_model(job.model, model, WEIGHTS_SEED)
            yield _write(worker.records(job), out / f"{job.name}.jsonl.gz")


class Worker:
    """A process that records jobs one after the other, started again when it has ended.

    models: the folder with the model files; what the process complains of is written there.
    """

    def __init__(self, library: Path, models: Path) -> None:
        self._command = [
            sys.executable,
            "-m",
            "backends.recorder.worker",
            str(library),
            str(models),
        ]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._environment = os.environ | DEBUG_ENVIRONMENT | {"PYTHONPATH": path}
        self._stderr = models / "stderr.txt"
        self._process: subprocess.Popen[str] | None = None

    def records(self, job: Job) -> Iterator[Record]:
        """The records of one trace; its last one is ``end`` or ``abort``.

        Raises `InputError` where the process says so, RuntimeError where it fails by itself.
        """
        process = self._process if self._process is not None else self._start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(job.as_line())
        process.stdin.flush()
        pending: Record | None = None
        for line in process.stdout:
            record = json.loads(line)
            if record["type"] == "pending":
                pending = record["pending"]
            elif record["type"] == "error":
                raise InputError(record["message"])
            else:
                yield record
                if record["type"] == "end":
                    return
        yield self._abort(process, pending)

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        process.wait()
        assert process.stdin is not None and process.stdout is not None
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

    def _start(self) -> subprocess.Popen[str]:
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=self._environment,
            )
        return self._process

    def _abort(self, process: subprocess.Popen[str], pending: Record | None) -> Record:
        """What is recorded of a process that has ended before its job was done."""
        status = process.wait()
        words = self._stderr.read_text(errors="replace")[-_LAST_WORDS:]
        self.close()
        if status >= 0:
            raise RuntimeError(f"the recording process ended with status {status}:\n{words}")
        return {"type": "abort", "signal": -status, "pending": pending, "stderr": words}


def _write(records: Iterator[Record], path: Path) -> Recorded:
    operations, signal = 0, None
    # No name and no time in the file's header: equal recordings are equal files.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for record in records:
            operations += record["type"] == "op"
            signal = record.get("signal")
            file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    return Recorded(path, operations, signal)
