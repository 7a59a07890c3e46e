"""`kvlab memory`: how many bytes a KV cache takes, how many tokens fit."""

from __future__ import annotations

from typing import Any

import typer

from workloads.errors import InputError

_LAYOUTS = ("llama.cpp", "paged")


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(memory)


def memory(
    model: str | None = typer.Option(
        None, help="Built-in model, config.json, GGUF file or TOML file."
    ),
    layers: int | None = typer.Option(None, min=1, help="Layers, instead of a model."),
    kv_heads: int | None = typer.Option(None, min=1, help="K/V heads, instead of a model."),
    head_dim: int | None = typer.Option(None, min=1, help="Elements of a head, likewise."),
    context: int | None = typer.Option(None, min=1, help="Tokens that the cache holds."),
    kv_memory: str | None = typer.Option(None, help="How many tokens fit: memory, as 20GiB."),
    sequences: int = typer.Option(1, min=1, help="Sequences that share the context."),
    ubatch: int = typer.Option(512, min=1, help="Tokens of a physical batch (sizes SWA caches)."),
    kv_type: str = typer.Option("f16", help="Type of cached K and V, for example f16, q8_0."),
    kv_type_v: str | None = typer.Option(None, help="Type of V where it differs."),
    block_size: int | None = typer.Option(
        None, min=1, help="Block tables with blocks of so many tokens, instead of llama.cpp cells."
    ),
    tensor_parallel: int = typer.Option(
        1, min=1, help="Devices that divide the model; the bytes are those of each of them."
    ),
    images: int = typer.Option(
        0, min=0, help="Images of each sequence, for layers that attend to images."
    ),
    unified: bool = typer.Option(False, "--unified", help="One cache for all sequences."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
) -> None:
    """Bytes of a KV cache for a context, or the context that fits into bytes.

    Models with sliding windows are shown with window-sized caches (iSWA) and without.
    """
    from sim.memory import memory_report, plain_layers, tokens_that_fit
    from sim.model_files.lookup import model_of
    from sim.sharding import shard_of

    shape = (layers, kv_heads, head_dim)
    if (model is None) == (None in shape):
        raise InputError("expected either --model, or --layers, --kv-heads and --head-dim")
    if model is None and tensor_parallel > 1:
        raise InputError("expected --model with --tensor-parallel")
    if (context is None) == (kv_memory is None):
        raise InputError("expected either --context or --kv-memory")
    geometry: Any = (
        shard_of(model_of(model), tensor_parallel)
        if model is not None
        else plain_layers(layers or 0, kv_heads or 0, head_dim or 0)
    )
    same: dict[str, Any] = {
        "sequences": sequences,
        "ubatch": ubatch,
        "kv_type": kv_type,
        "kv_type_v": kv_type_v,
        "block_size": block_size,
        "unified": unified,
        "images": images,
    }
    if context is None:
        fitting = tokens_that_fit(geometry, _bytes_of(kv_memory or ""), **same)
        if fitting is None:
            typer.echo("any number of tokens fits: no layer caches tokens")
            return
        if fitting < 1:
            raise InputError(f"{kv_memory} of K/V memory hold no token of this model")
        context = fitting
    windowed = memory_report(geometry, context, **same)
    full = memory_report(geometry, context, swa_full=True, **same)
    if json:
        _print_json(context, windowed, full)
    else:
        _print_table(context, windowed, full)


def _bytes_of(text: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise InputError(f"--kv-memory {text}: expected bytes such as 20GiB or 4096MiB") from None


def _print_json(context: int, windowed: Any, full: Any) -> None:
    import json
    from dataclasses import asdict

    rows = [asdict(row) | {"bytes": row.bytes} for row in windowed.rows]
    print(
        json.dumps(
            {
                "context": context,
                "bytes": windowed.bytes,
                "bytes_without_windows": full.bytes,
                "caches": rows,
            },
            indent=2,
        )
    )


def _print_table(context: int, windowed: Any, full: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"KV cache for {context} tokens")
    for column in ("attention", "window", "layers", "cells", "K", "V", "total"):
        table.add_column(column, justify="left" if column == "attention" else "right")
    for row in windowed.rows:
        table.add_row(
            row.kind,
            str(row.window or "-"),
            str(row.layers),
            str(row.cells),
            *(_size(n) for n in (row.bytes_k, row.bytes_v, row.bytes)),
        )
    console = Console()
    console.print(table)
    console.print(f"Total: {_size(windowed.bytes)}")
    if full.bytes != windowed.bytes:
        console.print(f"Without window-sized caches: {_size(full.bytes)}")


def _size(n_bytes: int) -> str:
    """Bytes as a person would write them: exact, in the largest unit that divides well."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size and n_bytes % (size // 16 if size < 2**30 else size) == 0:
            return f"{n_bytes / size:g} {unit}"
    return f"{n_bytes / 2**20:.2f} MiB" if n_bytes >= 2**20 else f"{n_bytes} B"
