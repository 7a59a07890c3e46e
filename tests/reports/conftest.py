"""A small seeded stand-in for the simulator: results that look like a run's and add up."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.plots import Picture, pictures_of
from reports.results import RunResult
from reports.sweep import FORMAT, Sweep, sweep_at
from sim.owners import FREE, SHARED, UNUSED

CELL_BYTES = 131_072


class FakeCache:
    """Addresses that sequences take: one run with a reserve, or scattered blocks."""

    def __init__(self, cells: int, contiguous: bool) -> None:
        self.owner = np.full(cells, FREE)
        self.unused = np.zeros(cells, bool)
        self.contiguous = contiguous

    def take(self, request: int, n: int) -> bool:
        free = np.flatnonzero(self.owner == FREE)
        reserve = 1 << (n - 1).bit_length() if self.contiguous else -(-n // 4) * 4
        if self.contiguous:
            window = np.convolve(self.owner == FREE, np.ones(reserve, int), "valid")
            starts = np.flatnonzero(window == reserve)
            free = starts[0] + np.arange(reserve) if starts.size else free[:0]
        if free.size < reserve:
            return False
        self.owner[free[:reserve]] = request
        self.unused[free[n:reserve]] = True
        return True

    def give(self, request: int) -> None:
        mine = self.owner == request
        self.owner[mine], self.unused[mine] = FREE, False

    def picture(self, shared: int) -> np.ndarray:
        seen = np.where(self.unused, UNUSED, self.owner)
        seen[:shared] = SHARED
        return seen


def statistics(values: Any) -> dict[str, float | None]:
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if not known.size:
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99"), None)
    points = np.percentile(known, (50, 90, 95, 99))
    shares = dict(zip(("p50", "p90", "p95", "p99"), points.tolist(), strict=True))
    return {"mean": float(known.mean()), **shares}


def fake_run(
    policy: str = "paged",
    *,
    seed: int = 1,
    requests: int = 60,
    rows: int = 64,
    cells: int = 256,
    rate: float = 1.5,
    caches: int = 1,
    contiguous: bool = False,
    finish: bool = True,
    slow: float = 1.0,
    **summary: Any,
) -> RunResult:
    """A run of ``requests`` that arrive at ``rate`` and hold memory for a while.

    finish: False makes every request fail. Keywords of ``summary`` replace metrics.
    """
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate, requests))
    size = rng.integers(4, 40, requests)
    output = rng.integers(1, 60, requests)
    tpot = rng.gamma(8, 0.003, requests) * slow
    cache, shared = FakeCache(cells, contiguous), 0 if contiguous else 12
    cache.owner[:shared] = SHARED
    waiting: list[int] = []
    running: dict[int, float] = {}
    start = np.full(requests, np.nan)
    now, after, taken, frames = 0.0, 0, 0, []
    horizon = arrival[-1] * 1.5 + 15
    for now in np.linspace(0, horizon, max(rows, 200)):
        for request in [r for r, end in running.items() if end <= now]:
            cache.give(request)
            del running[request]
        while after < requests and arrival[after] <= now:
            waiting.append(after)
            after += 1
        while finish and waiting and cache.take(waiting[0], int(size[waiting[0]])):
            request = waiting.pop(0)
            start[request] = now
            running[request] = now + 2.0 * slow + output[request] * tpot[request] * 4
            taken += int(output[request])
        frames.append((now, len(running), len(waiting), taken, cache.picture(shared)))
    frames = frames[: rows - 1] + frames[-1:] if rows < len(frames) else frames
    done = ~np.isnan(start)
    ttft = start - arrival + rng.gamma(4, 0.02, requests) * slow
    tpot = np.where(output > 1, tpot, np.nan)
    e2e = ttft + np.nan_to_num(tpot) * (output - 1)
    seen = np.array([frame[4] for frame in frames])
    live = ((seen >= 0) | (seen == SHARED)).sum(1)
    unused, free = (seen == UNUSED).sum(1), (seen == FREE).sum(1)
    external = free // 2 if contiguous else free * 0
    times = np.array([frame[0] for frame in frames])
    column = {"sample": 0, "turn": 0, "slo_class": "default", "priority": 0}
    gaps = np.sort(rng.gamma(8, 0.003, 200) * slow)
    makespan = float(times[-1])
    n_done = int(done.sum())
    tokens = int(output[done].sum())
    measured: dict[str, Any] = {
        "policy": policy,
        "caches": [
            {
                "name": ("base", "swa")[index] if caches > 1 else "kv",
                "cells": cells,
                "cell_bytes": CELL_BYTES,
            }
            for index in range(caches)
        ],
        "requests_completed": n_done,
        "requests_failed": requests - n_done,
        "makespan_s": makespan,
        "output_tokens_per_s": tokens / makespan,
        "total_tokens_per_s": (tokens + int(size[done].sum())) / makespan,
        "goodput_rps": int((ttft < 2.0).sum()) / makespan,
        "slo_share": int((ttft < 2.0).sum()) / requests,
        "ttft_s": statistics(ttft),
        "tpot_s": statistics(tpot[done]),
        "itl_s": statistics(gaps if finish else []),
        "e2e_s": statistics(e2e),
        "itl_cdf": [[g, (i + 1) / 200] for i, g in enumerate(gaps.tolist())] if finish else [],
        "fairness": 0.9,
        "kv_utilization_mean": float(live.mean() / cells),
        "kv_utilization_peak": float(live.max() / cells),
        "reserved_mean": float(unused.mean() / cells / 2),
        "internal_fragmentation_mean": float(unused.mean() / cells / 2),
        "external_fragmentation_mean": float(external.mean() / cells),
        "preemptions": 0 if contiguous else 3,
        "recomputed_tokens": 0 if contiguous else 57,
        "swapped_bytes": 0,
        "cow_bytes": 0,
        "defrag_bytes": 0,
        "moved_bytes": 0,
        "shifted_bytes": 0,
        "prefix_hit_tokens": 0 if contiguous else 500,
        "prefix_hit_rate": 0.0 if contiguous else 0.21,
        "evictions": 0 if contiguous else 40,
        "alloc_failures": 5,
        "steps": 4000,
        "cpu_s": 0.5 + seed / 7,
    }
    return RunResult.of(
        {
            "model": "gemma-3-12b",
            "kv": {"tokens": 65_536, "type": "f16", "host": None},
            "policy": {"name": policy, "reserve": "pow2" if contiguous else "exact"},
        },
        {
            **{name: [value] * requests for name, value in column.items()},
            "request": np.arange(requests),
            "conversation": [None if r % 3 else r // 3 for r in range(requests)],
            "arrival_s": arrival,
            "prompt": size,
            "output": output,
            "status": np.where(done, "finished", "failed"),
            "reason": np.where(done, "", "can never fit: needs more cells than the cache has"),
            "queue_s": start - arrival,
            "ttft_s": ttft,
            "tpot_s": np.where(done, tpot, np.nan),
            "itl_p50_s": tpot,
            "itl_p99_s": tpot * 2,
            "itl_max_s": tpot * 3,
            "e2e_s": e2e,
            "finish_s": arrival + e2e,
            "stretches_s": [
                [a + t, a + e] if ok else []
                for a, t, e, ok in zip(arrival, ttft, e2e, done, strict=True)
            ],
            "pauses_s": [[]] * requests,
            "pause_kinds": [[]] * requests,
            "preemptions": np.zeros(requests, int),
            "recomputed_tokens": np.zeros(requests, int),
            "prefix_hit_tokens": np.zeros(requests, int),
        },
        {
            "time_s": times,
            "steps": np.arange(len(frames)) * 10,
            "running": [frame[1] for frame in frames],
            "waiting": [frame[2] for frame in frames],
            "prompt_tokens": np.arange(len(frames)),
            "output_tokens": [frame[3] for frame in frames],
            "preemptions": np.zeros(len(frames), int),
            "live_bytes": live * CELL_BYTES,
            "reserved_bytes": unused // 2 * CELL_BYTES,
            "internal_bytes": (unused - unused // 2) * CELL_BYTES,
            "free_bytes": free * CELL_BYTES,
            "external_bytes": external * CELL_BYTES,
            "shared_bytes": (seen == SHARED).sum(1) * CELL_BYTES,
            "largest_free_run_bytes": free * CELL_BYTES,
            "capacity_bytes": np.full(len(frames), cells * CELL_BYTES),
            **{f"owners_{index}": seen for index in range(caches)},
        },
        measured | summary,
    )


@pytest.fixture(scope="session")
def make_run() -> Any:
    """`fake_run`, for tests."""
    return fake_run


@pytest.fixture(scope="session")
def drawn() -> tuple[dict[str, RunResult], list[Picture]]:
    """Two runs by policy, one with two caches, and all their pictures."""
    runs = {
        "contiguous": fake_run("contiguous", contiguous=True),
        "iswa": fake_run("iswa", caches=2),
    }
    return runs, list(pictures_of(runs))


SEEDS = range(6)
AXES = {"policy": ["paged", "ring|<b>"], "kv_tokens": ["64", "128"]}


@pytest.fixture
def stored(tmp_path: Path, make_run: Any) -> Sweep:
    """paged twice as good as ring at 64 tokens, 0.5 % better at 128; one ring point failed."""
    result = make_run("paged", seed=1)
    points = [
        {
            "id": f"{policy}-{tokens}-{seed}".replace("|<b>", ""),
            "labels": [policy, tokens],
            "seed": seed,
        }
        for policy in AXES["policy"]
        for tokens in AXES["kv_tokens"]
        for seed in SEEDS
    ]
    index = {
        "format": FORMAT,
        "kvlab": "0.1.0",
        "title": "Made up",
        "question": "Why?",
        "answer": "Because of *ring*.",
        "notes": "Because.",
        "setting": {"model": "m|n", "slo": {"default": {"ttft_s": 2.0}}},
        "axes": [
            {"name": "policy", "labels": AXES["policy"], "numbers": None},
            {"name": "kv_tokens", "labels": AXES["kv_tokens"], "numbers": [64.0, 128.0]},
        ],
        "compared": "policy",
        "seeds": list(SEEDS),
        "metrics": ["goodput_rps", "preemptions"],
        "judged": ["goodput_rps"],
        "plots": [],
        "points": points,
        "capacity": {"share": 0.9, "low": 1.0, "high": 8.0, "tolerance": 0.1},
        "searches": [{"id": f"s{seed}", "labels": ["paged", "64"], "seed": seed} for seed in SEEDS],
        "experiments": [{"id": "e1", "labels": ["kv-memory"]}],
    }
    with sweep_at(tmp_path / "sweep", index) as sweep:
        for point in points:
            policy, tokens = point["labels"]
            factor = 1.0
            if policy != "paged":
                factor = 0.5 if tokens == "64" else 0.995
            result.summary["goodput_rps"] = factor * (1.0 + point["seed"] / 10)
            result.summary["preemptions"] = 3
            if point["id"] == "ring-128-5":
                sweep.store_failure(point["id"], {}, "no room | at all")
            else:
                sweep.store_run(point["id"], result)
        for seed in SEEDS:
            verdict = "even the highest" if seed > 3 else "found"
            sweep.store_search(f"s{seed}", {"verdict": verdict, "rate": 2.0 + seed, "probes": []})
        sweep.store_experiment("e1", {"notes": ["made up"]})
    return Sweep.load(tmp_path / "sweep")


VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Collects elements and text, and checks that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data.strip())

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="session")
def read_page() -> type[Reader]:
    """`Reader`, for tests."""
    return Reader


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def seen_in_browser(tmp_path: Path) -> Callable[[str, str], Any]:
    """Opens a page from disk in headless Chromium, without anything on the console.

    Takes the page's text and a script, which runs after the page's own; returns what the script
    has put into the title as JSON.
    """
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")

    def seen(text: str, script: str) -> Any:
        path = tmp_path / "page.html"
        path.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        options += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,800"]
        options += ["--dump-dom", "--virtual-time-budget=10000", path.as_uri()]
        done = subprocess.run(
            [str(CHROMIUM), *options], capture_output=True, text=True, timeout=90, check=True
        )
        assert "CONSOLE" not in done.stderr
        title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
        assert title is not None
        return json.loads(html.unescape(title.group(1)))

    return seen
