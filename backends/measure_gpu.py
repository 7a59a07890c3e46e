"""`python -m backends.measure_gpu --out DIR`: all that a GPU is wanted for, in one resumable run.

In this order: every policy is verified on the GPU's arrays; a few kernels are held against device
copies and other people's kernels (`backends.ceilings`); the models are calibrated. What is aimed at
is printed as passed or missed; a miss is no failure. Done parts leave a file in
``DIR`` and are passed over by the next run; a calibration goes on at its next point. ``--minutes``
ends a run in time: what is left is printed, and the same command does it.

Needs NumPy and CuPy only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from backends.__main__ import POLICIES
from backends.arrays import Backend
from backends.calibrate.prefill import AUTO, PREFILLS
from backends.calibrate.run import Request, calibrate
from backends.ceilings import error_lines, reaches
from backends.choice import BACKENDS, backend_of
from backends.verification.scenarios import scenarios_of
from sim.model_files.lookup import model_of
from workloads.errors import InputError

MODELS = ("llama-3.1-8b", "gemma-3-12b")
CEILINGS_MODEL = "llama-3.1-8b"


class OutOfTimeError(Exception):
    """The time given is used up; the part at hand goes on where it was in the next run."""


@dataclass(frozen=True)
class Part:
    """One thing to do. path: what it leaves. run: does it, and returns lines and success."""

    name: str
    path: Path
    run: Callable[[], tuple[list[str], bool]]


def main(arguments: list[str]) -> int:
    """Do what is left; 1 where a verification failed, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m backends.measure_gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--backend", choices=BACKENDS, default="cupy")
    parser.add_argument("--model", nargs="+", default=list(MODELS))
    parser.add_argument("--kv-type", default="bf16")
    parser.add_argument("--prefill", choices=PREFILLS, default=AUTO)
    parser.add_argument("--quick", action="store_true", help="calibrate with few points")
    given = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * given.minutes
    try:
        backend = backend_of(given.backend)
        given.out.mkdir(parents=True, exist_ok=True)
        return _work(list(parts_of(given, backend, deadline)), deadline)
    except (InputError, OSError) as error:
        print(f"measure_gpu: {error}", file=sys.stderr)
        return 2


def _work(parts: list[Part], deadline: float) -> int:
    failed = False
    for index, part in enumerate(parts):
        if part.path.exists():
            print(f"{part.name}: done before, {part.path}", flush=True)
            continue
        if time.monotonic() > deadline:
            return _left(parts[index:], failed)
        began = time.monotonic()
        try:
            lines, passed = part.run()
        except OutOfTimeError as at:
            print(f"{part.name}: stopped {at}", flush=True)
            return _left(parts[index:], failed)
        for line in lines:
            print(line)
        failed |= not passed
        print(f"{part.name}: {time.monotonic() - began:.0f} s", flush=True)
    return int(failed)


def _left(parts: list[Part], failed: bool) -> int:
    print(f"left for the next run: {', '.join(part.name for part in parts)}", flush=True)
    return int(failed)


def parts_of(given: argparse.Namespace, backend: Backend, deadline: float) -> Iterator[Part]:
    """Everything, in order; calibrations stop at ``deadline`` (of `time.monotonic`)."""
    out: Path = given.out
    for policy in POLICIES:
        path = out / f"verify-{policy}.json"
        yield Part(f"verify {policy}", path, partial(_verify, policy, backend, path))
    if given.backend == "cupy":
        path = out / "ceilings.json"
        yield Part("ceilings", path, partial(_ceilings, backend, given.kv_type, path))
    device = "-".join(backend.device_name().lower().split())
    for model in given.model:
        path = out / f"{device}-{model}.json"
        run = partial(_calibrate, model, given, path, deadline)
        yield Part(f"calibrate {model}", path, run)


def _verify(policy: str, backend: Backend, path: Path) -> tuple[list[str], bool]:
    """All scenarios of a policy. The file is only left where they passed."""
    lines, found = [], {}
    for scenario in scenarios_of(policy):
        outcome = scenario.outcome(POLICIES[policy], backend.name)
        report = outcome.report
        if report is None:
            found[scenario.name] = f"refused: {outcome.refusal}"
        elif report.passed:
            found[scenario.name] = f"{report.outputs} outputs, error {report.error:.1e}"
        else:
            lines += [f"{policy}, {scenario.name}: FAILED"]
            lines += [f"  {line}" for line in report.failures[:3]]
    if not lines:
        _write(path, {"device": backend.device_name(), "scenarios": found})
    return [*lines, f"{policy}: {len(found)} scenarios passed or refused"], not lines


def _ceilings(backend: Backend, kind: str, path: Path) -> tuple[list[str], bool]:
    lines: list[str] = []
    found: list[dict[str, Any]] = []
    for each in reaches(backend, model_of(CEILINGS_MODEL), kind):
        found.append(asdict(each))
        lines += each.lines()
    kernels = backend.kernel_attributes()
    lines += [f"{name}: {said}" for name, said in kernels.items()]
    said = {"clocks": backend.clocks(), "kernels": kernels, "lines": lines}
    _write(path, {"device": backend.device_name(), "reached": found} | said)
    return lines, True


def _calibrate(
    model: str, given: argparse.Namespace, path: Path, deadline: float
) -> tuple[list[str], bool]:
    def progress(done: int, points: int, key: str) -> None:
        if time.monotonic() > deadline:
            raise OutOfTimeError(f"at point {done} of {points}")
        if done % 50 == 0:
            print(f"  {done}/{points} {key}", flush=True)

    now = datetime.now(UTC).isoformat(timespec="seconds")
    kinds = (given.kv_type,)
    request = Request(model_of(model), given.backend, kinds, given.quick, now, given.prefill)
    data = calibrate(request, path, progress)
    return list(error_lines(data["errors"])), True


def _write(path: Path, value: dict[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
