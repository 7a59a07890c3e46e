"""Two installations of kvlab measured in turns: the processor time of the same comparison."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from workloads.errors import InputError

Times = dict[str, list[float]]
Done = Callable[[int, int], None]


def paired_times(
    old_python: Path, study: Path, runs: int, done: Done | None = None
) -> tuple[Times, Times]:
    """Processor seconds by policy, of the kvlab that ``old_python`` has and of this one.

    Each run is a process of its own; who goes first alternates. Raises `InputError` where a run
    fails.
    """
    times: tuple[Times, Times] = ({}, {})
    pythons = (old_python, Path(sys.executable))
    for turn in range(runs):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            for policy, seconds in _times_of(pythons[which], study).items():
                times[which].setdefault(policy, []).append(seconds)
        if done is not None:
            done(turn + 1, runs)
    return times


def _times_of(python: Path, study: Path) -> dict[str, float]:
    # -P: what lies in the current directory must not stand in for either installation.
    command = [str(python), "-P", "-m", "kvlab", "compare", str(study), "--json"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"{python}: cannot be run: {error.strerror or error}") from error
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError(f"{python}: kvlab compare {study} failed: {last}")
    return {policy: found["cpu_s"] for policy, found in json.loads(ended.stdout).items()}
