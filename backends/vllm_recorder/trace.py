"""One recording, step by step, in the format that `kvlab conform` replays."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from backends.conformance.recording import Record
from backends.vllm_recorder.configs import IN_FLIGHT, SPECULATIVE, draw_config
from backends.vllm_recorder.engine import Engine, Watch, ids_of, require_vllm
from backends.vllm_recorder.in_flight import InFlightRecorder
from backends.vllm_recorder.traffic import draw_aborts, draw_requests

MOST_STEPS = 3000
"""Steps after which a recording ends, for engines that would go on for ever."""
STALLED = 5
"""Steps with nothing scheduled and nobody to come after which nothing will happen any more."""
FULL_TABLES_EVERY = 50
"""Of recordings with checksums in place of tables: every how many steps the tables too."""
LISTED_POOL = 160
"""Largest pool whose free queue is listed."""


def record(kind: str, seed: int, number: int, out: Path) -> tuple[Path, int]:
    """Record one random trace into the folder ``out``; the file, and how many steps it has."""
    version = require_vllm()
    rng = Random(f"vllm {kind} {seed} {number}")
    config = draw_config(rng, kind)
    traffic = kind.removeprefix(SPECULATIVE).removeprefix(IN_FLIGHT)
    requests = draw_requests(rng, config, traffic)
    aborts = draw_aborts(rng, requests, traffic)
    header: Record = {
        "type": "trace",
        "format": 1,
        "name": f"{kind}_s{seed}_{number:02d}",
        "category": kind,
        "seed": seed,
        "note": "",
        "vllm": version,
        "config": config,
        "tables": "crc" if kind == "big" else "full",
        "aborts": [list(each) for each in aborts],
    }
    path = out / f"{header['name']}.jsonl.gz"
    steps = 0
    out.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # The time in a gzip header would make equal recordings differ.
        with (
            unfinished.open("wb") as file,
            gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as lines,
        ):
            for line in _lines(header, requests, aborts):
                steps += line["type"] == "step"
                lines.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path, steps


def _lines(
    header: Record, requests: list[Record], aborts: list[tuple[int, str]]
) -> Iterator[Record]:
    yield header
    for request in requests:
        yield {"type": "req", **request}
    recorder: _Recorder | InFlightRecorder
    if "in_flight" in header["config"]:
        recorder = InFlightRecorder(header["config"], requests)
    else:
        recorder = _Recorder(header, requests, aborts)
    yield from recorder.steps()
    yield {"type": "end", "end": recorder.end, **recorder.totals}


class _Recorder:
    def __init__(
        self, header: Record, requests: list[Record], aborts: list[tuple[int, str]]
    ) -> None:
        self.end = "drained"
        self.totals: dict[str, int] = dict.fromkeys(_TOTALS, 0)
        self._crc = header["tables"] == "crc"
        self._engine = Engine(header["config"])
        self._watch = Watch(self._engine)
        self._to_come = list(reversed(requests))
        self._aborts: dict[int, list[str]] = defaultdict(list)
        for at, name in aborts:
            self._aborts[at].append(name)

    def steps(self) -> Iterator[Record]:
        """A record for every step in which the engine holds a request."""
        engine, at, idle = self._engine, -1, 0
        while engine.has_requests or self._to_come:
            at = at + 1 if engine.has_requests else max(at + 1, self._to_come[-1]["arrival"])
            if self.totals["steps"] == MOST_STEPS:
                self.end = "truncated"
                return
            record: Record = {"type": "step", "step": at, "add": [], "abort": []}
            while self._to_come and self._to_come[-1]["arrival"] == at:
                request = self._to_come.pop()
                engine.add(request)
                record["add"].append(request["id"])
            for name in self._aborts.pop(at, ()):
                if engine.knows(name):
                    engine.abort(name)
                    record["abort"].append(name)
            self.totals["aborted"] += len(record["abort"])
            if not engine.has_requests:
                yield record | {"idle": True, "free": engine.pool.get_num_free_blocks()}
                continue
            record |= self._step()
            yield record
            moved = record["sched"] or record["preempted"] or self._to_come
            idle = 0 if moved else idle + 1
            if idle == STALLED:
                self.end = "stalled"
                return

    def _step(self) -> Record:
        engine = self._engine
        output = engine.scheduler.schedule()
        record = self._scheduled(output)
        sampled, finished, stats = engine.finish_step(output)
        record |= {"sampled": sampled, "finished": finished, **self._state()}
        if engine.speculates:
            verified = None if stats is None else stats.spec_decoding_stats
            record["verified"] = [getattr(verified, name, 0) for name in _VERIFIED]
            record["drafts"] = engine.draft(output)
        prefixes = None if stats is None else stats.prefix_cache_stats
        record["stats"] = [] if prefixes is None else [getattr(prefixes, name) for name in _STATS]
        self._count(record)
        return record

    def _scheduled(self, output: Any) -> Record:
        engine, noted = self._engine, self._watch.take()
        sched = list(output.num_scheduled_tokens.items())
        cached = output.scheduled_cached_reqs
        hits = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        told = dict(zip(cached.req_ids, cached.new_block_ids, strict=True))
        told |= {each.req_id: each.block_ids for each in output.scheduled_new_reqs}
        running = engine.scheduler.running
        tables = {
            request.request_id: [
                list(ids) for ids in engine.manager.get_block_ids(request.request_id)
            ]
            for request in running
        }
        record: Record = {
            "sched": [list(each) for each in sched],
            "new": [[each.req_id, each.num_computed_tokens] for each in output.scheduled_new_reqs],
            "resumed": [[name, hits[name]] for name, _ in sched if name in cached.resumed_req_ids],
            "preempted": noted["preempted"],
            "refused": noted["refused"],
            "lookups": noted["lookups"],
            "evicted": noted["evicted"],
            "new_blocks": {
                name: None if told[name] is None else [list(ids) for ids in told[name]]
                for name, _ in sched
            },
        }
        if not self._crc or self.totals["steps"] % FULL_TABLES_EVERY == 0:
            record["tables"] = tables
        if self._crc:
            record["tables_crc"] = {
                name: [_crc(ids) for ids in groups] for name, groups in tables.items()
            }
        return record | {
            "computed": {each.request_id: each.num_computed_tokens for each in running},
            "common_prefix": list(output.num_common_prefix_blocks),
            "free_mid": engine.pool.get_num_free_blocks(),
        }

    def _state(self) -> Record:
        engine = self._engine
        pool = engine.pool
        queue = [block.block_id for block in pool.free_block_queue.get_all_free_blocks()]
        free = pool.get_num_free_blocks()
        record: Record = {
            "running": ids_of(engine.scheduler.running),
            "waiting": ids_of(engine.scheduler.waiting),
            "free": free,
            "usage": round(1 - free / (pool.num_gpu_blocks - 1), 9),
        }
        if pool.num_gpu_blocks <= LISTED_POOL:
            record["free_queue"] = queue
        return record | {
            "free_crc": _crc(queue),
            "cached_blocks": sum(block.block_hash is not None for block in pool.blocks),
            "cached_keys": len(pool.cached_block_hash_to_block),
        }

    def _count(self, record: Record) -> None:
        totals, stats = self.totals, record["stats"]
        used = self._engine.pool.num_gpu_blocks - 1 - record["free_mid"]
        refusals = Counter(reason for _, reason in record["refused"])
        for name, more in (
            ("steps", 1),
            ("scheduled_tokens", sum(n for _, n in record["sched"])),
            ("sampled_tokens", len(record["sampled"])),
            ("preemptions", len(record["preempted"])),
            ("finished", len(record["finished"])),
            ("evictions", len(record["evicted"])),
            ("hit_tokens", sum(hit for _, hit in (*record["new"], *record["resumed"]))),
            ("query_tokens", stats[1] + stats[4]),
            ("refused_full_isl", refusals["full_isl"]),
            ("refused_slots", refusals["slots"]),
        ):
            totals[name] += more
        totals["max_used_blocks"] = max(totals["max_used_blocks"], used)
        totals["max_running"] = max(totals["max_running"], len(record["computed"]))


_TOTALS = (
    *("steps", "scheduled_tokens", "sampled_tokens", "preemptions", "finished", "aborted"),
    *("evictions", "hit_tokens", "query_tokens", "refused_full_isl", "refused_slots"),
    *("max_used_blocks", "max_running"),
)
_STATS = (
    *("requests", "queries", "hits"),
    *("preempted_requests", "preempted_queries", "preempted_hits"),
)

_VERIFIED = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")


def _crc(blocks: list[int]) -> int:
    return zlib.crc32(",".join(map(str, blocks)).encode())
