"""`kvlab record`: recordings of a live engine, to be replayed by `kvlab conform`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from workloads.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backends.recorder.jobs import Job

LLAMACPP, VLLM = "llama.cpp", "vllm"
ENGINES = (LLAMACPP, VLLM)
LAYOUTS = {"unified": (True,), "streams": (False,), "both": (True, False)}


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(record)


def record(
    out: Path = typer.Option(..., help="Write the recordings into this folder."),
    engine: str = typer.Option(LLAMACPP, help="Engine to record: llama.cpp or vllm."),
    seed: int | None = typer.Option(None, min=0, help="Seed; a new one each time unless given."),
    model: str = typer.Option(
        "all", help="llama.cpp: tiny model by the kind of its cache, or all."
    ),
    ops: int = typer.Option(100, min=1, help="llama.cpp: random operations of each recording."),
    layout: str = typer.Option(
        "both", help="llama.cpp: cells of all sequences: unified, streams or both."
    ),
    profile: str = typer.Option(
        "all", help="llama.cpp: what is drawn: mixed, fill (a full cache) or all."
    ),
    script: Path | None = typer.Option(
        None,
        help="llama.cpp: record the operations in this file (a recording, or one without answers).",
    ),
    library: Path | None = typer.Option(
        None, help="Shared library with llama.cpp's C API; that of xllamacpp unless given."
    ),
    kind: str = typer.Option(
        "all", help="vllm: kind of settings and traffic (swa, preempt, priority, ...), or all."
    ),
    count: int = typer.Option(1, min=1, help="vllm: recordings of each kind."),
) -> None:
    """Record what a live engine does with random or given operations."""
    if engine == VLLM:
        _record_vllm(out, kind, count, _seed_of(seed))
    elif engine == LLAMACPP:
        _record_llamacpp(out, model, layout, profile, seed, ops, script, library)
    else:
        raise InputError(f"--engine {engine}: expected {' or '.join(ENGINES)}")


def _record_vllm(out: Path, kind: str, count: int, seed: int) -> None:
    from backends.vllm_recorder.configs import IN_FLIGHT_KINDS
    from backends.vllm_recorder.configs import KINDS as ONE_BY_ONE_KINDS
    from backends.vllm_recorder.engine import require_vllm
    from backends.vllm_recorder.trace import record as record_one

    kinds = (*ONE_BY_ONE_KINDS, *IN_FLIGHT_KINDS)
    if kind not in (*kinds, "all"):
        raise InputError(f"--kind {kind}: expected one of {', '.join(kinds)}, all")
    typer.echo(f"vLLM {require_vllm()}, seed {seed}")
    total = 0
    for each in kinds if kind == "all" else (kind,):
        for number in range(count):
            path, steps = record_one(each, seed, number, out)
            total += steps
            typer.echo(f"{path}: {steps} steps")
    typer.echo(f"{total} steps recorded; replay them with: kvlab conform {out}")


def _seed_of(seed: int | None) -> int:
    from secrets import randbelow

    return randbelow(1_000_000) if seed is None else seed


def _record_llamacpp(
    out: Path,
    model: str,
    layout: str,
    profile: str,
    seed: int | None,
    ops: int,
    script: Path | None,
    library: Path | None,
) -> None:
    from backends.recorder.library import find_library
    from backends.recorder.process import record as record_all

    jobs = _random(model, layout, profile, seed, ops) if script is None else _scripted(script)
    total = 0
    for done in record_all(jobs, out, library if library is not None else find_library()):
        total += done.operations
        ended = "" if done.signal is None else f", then the engine ended (signal {done.signal})"
        typer.echo(f"{done.path}: {done.operations} operations{ended}")
    typer.echo(f"{total} operations recorded; replay them with: kvlab conform {out}")


def _scripted(path: Path) -> Iterable[Job]:
    from backends.recorder.jobs import Job
    from backends.recorder.script import read_script

    script = read_script(path)
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return [Job(name, script.model, script.config, operations=script.operations, script=path.name)]


def _random(model: str, layout: str, profile: str, seed: int | None, ops: int) -> Iterable[Job]:
    from backends.conformance.llamacpp_models import TINY_MODELS
    from backends.recorder.configs import PROFILES
    from backends.recorder.jobs import random_jobs

    models = list(TINY_MODELS) if model == "all" else [model]
    profiles = [p for p in PROFILES if profile in (p, "all")]
    for option, value, known in (
        ("--model", model, (*TINY_MODELS, "all")),
        ("--layout", layout, tuple(LAYOUTS)),
        ("--profile", profile, (*PROFILES, "all")),
    ):
        if value not in known:
            raise InputError(f"{option} {value}: expected one of {', '.join(known)}")
    seed = _seed_of(seed)
    typer.echo(f"seed {seed}")
    return random_jobs(models, LAYOUTS[layout], profiles, seed, ops)
