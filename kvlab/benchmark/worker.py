"""One case in a process of its own: ``python -m kvlab.benchmark.worker`` with the case on stdin.

A fresh process starts with an empty heap, so its peak memory is that of the case, and nothing is
warm that another case has warmed.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import numpy as np

from kvlab.benchmark.cases import Case
from kvlab.benchmark.churn import churned
from kvlab.config import RunConfig
from kvlab.running import simulate
from workloads.errors import InputError

FAILED = 2
KIBIBYTE = 1024 if sys.platform != "darwin" else 1
"""Unit of the peak memory that the system reports."""


def measured(case: Case) -> dict[str, Any]:
    """CPU seconds, what was done in them, and the peak memory of this process in bytes."""
    config = RunConfig.of(case.fields)
    if case.kind == "churn":
        found = churned(config, case.fill)
    else:
        finished = simulate(config, with_maps=False).finished
        recorder = finished.recorder
        done = np.array(recorder.rows.column("status")) == "finished"
        found = {
            "cpu_s": finished.cpu_s,
            "events": recorder.events,
            "requests": int(done.sum()),
            "output_tokens": int(recorder.rows.column("output")[done].sum()),
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE
    return found | {"peak_bytes": peak}


if __name__ == "__main__":
    try:
        print(json.dumps(measured(Case(**json.load(sys.stdin)))))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)
