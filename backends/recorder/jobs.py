"""What is to be recorded: one job a trace, on its way to the process that does it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from backends.conformance.llamacpp_models import TINY_MODELS
from backends.conformance.recording import Record
from backends.recorder.configs import Profile, draw_config


@dataclass(frozen=True, slots=True)
class Job:
    """One trace: random (``seed`` and ``n_ops``) or scripted (``operations``).

    name: of the file, without its ending. model: one of `TINY_MODELS`. config: as in a header.
    """

    name: str
    model: str
    config: dict[str, Any]
    seed: int | None = None
    n_ops: int = 0
    operations: list[Record] | None = None
    script: str | None = None

    def as_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Job:
        """The job that `as_line` wrote."""
        return cls(**json.loads(line))


def random_jobs(
    models: Iterable[str],
    layouts: Iterable[bool],
    profiles: Iterable[Profile],
    seed: int,
    n_ops: int,
) -> Iterator[Job]:
    """One job for every model, layout (unified or not) and profile, each with a seed of its own.

    Seeds count up from ``seed``; a job depends on its own seed, model, layout and profile only.
    """
    layouts, profiles = tuple(layouts), tuple(profiles)
    for model in models:
        seeds = iter(range(seed, seed + len(layouts) * len(profiles)))
        for unified in layouts:
            for profile in profiles:
                own = next(seeds)
                rng = Random(f"context {model} {unified} {profile} {own}")
                config = draw_config(rng, TINY_MODELS[model], unified, profile)
                name = f"{model}_{'u' if unified else 's'}_{own:06d}"
                yield Job(name, model, config, seed=own, n_ops=n_ops)
