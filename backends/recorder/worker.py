"""The process that records: jobs come in on stdin, records go out on stdout, one line each.

llama.cpp ends its process where it finds something wrong; whoever started this one then knows from
the last ``pending`` record what it was asked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

from backends.conformance.llamacpp_models import TINY_MODELS
from backends.conformance.recording import Record
from backends.recorder.context import LiveModel
from backends.recorder.jobs import Job
from backends.recorder.library import load_library, name_of
from backends.recorder.log import Log
from backends.recorder.script import Scripted
from backends.recorder.trace import Recorder, Source
from backends.recorder.traffic import RandomTraffic
from workloads.errors import InputError


def main(library_path: str, models: str) -> None:
    """Record all jobs. models: the folder with the model files."""
    path = Path(library_path)
    try:
        library = load_library(path)
        log = Log(library)
        origin = {"lib": name_of(library, path)}
        for line in sys.stdin:
            job = Job.from_line(line)
            model = LiveModel(library, log, Path(models) / f"{job.model}.gguf")
            _record(model, job, origin)
            model.close()
    except InputError as error:
        _emit({"type": "error", "message": str(error)})


def _record(model: LiveModel, job: Job, origin: Record) -> None:
    more = origin | {"seed": job.seed, "script": job.script}
    recorder = Recorder(model, job.model, job.config, more)
    for record in recorder.records(_source(job)):
        _emit(record)
    recorder.close()


def _source(job: Job) -> Source:
    if job.operations is not None:
        return Scripted(job.operations)
    geometry = TINY_MODELS[job.model]
    rng = Random(f"operations {job.name}")
    return RandomTraffic(rng, geometry, job.config, job.n_ops)


def _emit(record: Record) -> None:
    sys.stdout.write(json.dumps(record, separators=(",", ":")) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
