"""Recorded cache sizes (``memsize``): one context a line, its sizes and the bytes of its caches."""

from __future__ import annotations

from pathlib import Path

from backends.conformance.difference import describe
from backends.conformance.llamacpp_models import geometry_of
from backends.conformance.recording import Record, read_records
from backends.conformance.report import Report
from sim.llamacpp.context import Context
from sim.llamacpp.sizes import ContextParams
from workloads.errors import InputError

#: What a recording says of a context's parameters, under our own names.
_PARAMS = (
    "n_ctx",
    "n_batch",
    "n_ubatch",
    "n_seq_max",
    "kv_unified",
    "swa_full",
    "type_k",
    "type_v",
    "n_rs_seq",
)


def params_from(config: Record) -> ContextParams:
    """The parameters that a recording's ``config`` gives; the rest are the recorder's defaults.

    ``memsize`` records do not say the batch size: llama-cpp-python, which they were made with, asks
    for 512 tokens.
    """
    given = {"n_batch": 512} | {name: config[name] for name in _PARAMS if name in config}
    return ContextParams(**given, flash_attn=bool(config["flash_attn"]))


def sizes_of(context: Context) -> Record:
    """Sizes and caches as a recording lists them (attention first, then recurrent)."""
    sizes = context.sizes
    caches: list[Record] = []
    for cache in context.attention.values():
        held = cache.memory_bytes()
        caches.append(
            {
                "kind": "kv",
                "cells": cache.size,
                "layers": cache.rows.geometry.layers,
                "n_seq_max": cache.n_seq_max,
                "n_stream": cache.n_stream,
                "bytes_k": held.first,
                "bytes_v": held.second,
            }
        )
    recurrent = context.recurrent
    if recurrent is not None:
        held = recurrent.memory_bytes()
        caches.append(
            {
                "kind": "rs",
                "cells": recurrent.size,
                "n_seq_max": sizes.n_seq_max,
                "bytes_r": held.first,
                "bytes_s": held.second,
            }
        )
    return {
        "n_ctx": sizes.n_ctx,
        "n_ctx_seq": sizes.n_ctx_seq,
        "n_batch": sizes.n_batch,
        "n_ubatch": sizes.n_ubatch,
        "caches": caches,
    }


def replay_sizes(path: Path) -> Report:
    """Compare the sizes of every context in the file."""
    report = Report(traces=1)
    for line, record in read_records(path):
        try:
            config = record["config"]
            ours = sizes_of(Context(geometry_of(config), params_from(config)))
            engine = {key: record[key] for key in ours if key != "caches"}
            engine["caches"] = [
                {key: theirs[key] for key in mine}
                for theirs, mine in zip(record["caches"], ours["caches"], strict=True)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}:{line}: not a recorded cache size ({error})") from error
        report.operations += 1
        if engine != ours:
            report.mismatches += 1
            where = f"{path}:{line}"
            report.first = report.first or describe(
                where, f"context({config})", "sizes", engine, ours
            )
    return report
