"""A memory map to zoom into: one page with everything in it, for a window of time."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from reports.html import environment, raw
from reports.results import RunResult
from reports.style import sequence_palette
from sim.owners import FREE, SHARED, UNUSED
from workloads.errors import InputError


def memory_page(run: RunResult, start: float, end: float) -> str:
    """The HTML text; ``run`` has samples of the caches between ``start`` and ``end`` (seconds).

    Raises `InputError` where the policy names no cells, or nothing was sampled.
    """
    caches = [_cache(run, index) for index in range(len(run.summary["caches"]))]
    if not caches:
        raise InputError(f"{run.summary['policy']} keeps no K/V: there is no memory to draw")
    data = {
        "times": run.timeline["time_s"].round(6).tolist(),
        "end": end,
        "palette": (sequence_palette() * 255).round().astype(int).tolist(),
        "special": {"free": FREE, "shared": SHARED, "unused": UNUSED},
        "caches": caches,
    }
    return (
        environment()
        .get_template("memory.html")
        .render(
            policy=run.summary["policy"],
            start=f"{start:,.6g}",
            end=f"{end:,.6g}",
            names=[cache["name"] for cache in caches],
            data=data,
            css=raw("report.css", "memory.css"),
            js=raw("memory.js"),
        )
    )


def _cache(run: RunResult, index: int) -> dict[str, Any]:
    """Owners of one cache by (sample, address) as deflated little-endian int32, in base64."""
    owners = run.owners(index)
    what = run.summary["caches"][index]
    if owners is None:
        raise InputError(
            f"{run.summary['policy']} names no cells, or nothing ran in the window: no map to draw"
        )
    packed = zlib.compress(np.ascontiguousarray(owners, dtype="<i4").tobytes(), 9)
    return {
        "name": what["name"],
        "cells": what["cells"],
        "rows": owners.shape[1],
        "owners": base64.b64encode(packed).decode("ascii"),
    }
