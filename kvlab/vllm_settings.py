"""The settings of a measured vLLM run, from the files beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sim.budget import Budget
from sim.hardware import HardwareSheet, hardware_names, hardware_of
from sim.model import ModelSpec
from sim.model_files.lookup import model_of
from sim.timing.ring import ALONE, Ring
from sim.timing.vllm_costs import VllmCosts
from workloads.errors import InputError

ASYNC_SINCE = (0, 14)
"""vLLM schedules asynchronously by default from this version on (its pull request 27614)."""
BLOCK_SIZE = 16
"""vLLM's tokens of a block where nothing else is said."""
DEFAULT_LINK = "h100"
"""The sheet whose host link (PCIe 5.0 x16) stands in for that of unknown hardware."""


@dataclass(frozen=True)
class RunSettings:
    """What is needed to simulate a run.

    blocks: of the KV memory, without the null block. notes: lines that say where a setting comes
    from that the files do not state.
    """

    budget: Budget
    hardware: HardwareSheet
    costs: VllmCosts
    block_size: int
    blocks: int
    prefix_cache: bool
    chunked_prefill: bool
    is_async: bool
    notes: list[str] = field(default_factory=list)


def settings_of(
    directory: Path,
    *,
    model: str | None = None,
    hardware: str | None = None,
    kv_blocks: int | None = None,
) -> RunSettings:
    """The settings in ``meta.json`` and ``cluster.json``; what is given wins.

    Raises `InputError` for files and values that cannot be used.
    """
    meta = _read(directory / "meta.json")
    cluster_path = directory / "cluster.json"
    cluster = _read(cluster_path) if cluster_path.exists() else {}
    instance = _instance_of(cluster, cluster_path) if cluster else {}
    engine = _table(meta, "engine_kwargs")
    for name in ("pipeline_parallel_size", "data_parallel_size"):
        parts = _said(meta, "parallel", name) or 1
        if parts != 1:
            raise InputError(
                f"{directory / 'meta.json'}: {name} {parts}: only runs of one engine whose "
                "GPUs share every layer can be simulated"
            )
    if engine.get("speculative_config") or _resolved(meta, "speculative", "num_speculative_tokens"):
        raise InputError(
            f"{directory / 'meta.json'}: speculative_config: runs with drafts cannot be simulated, "
            "the profile has no draft model"
        )
    notes: list[str] = []
    ring = _ring(int(_said(meta, "parallel", "tensor_parallel_size") or 1), cluster, directory)
    spec = model_of(model or _model_file(directory, meta))
    cache = _table(meta, "kv_cache")
    block_size = int(cache.get("block_size") or _resolved(meta, "cache", "block_size") or 0)
    block_size = block_size or BLOCK_SIZE
    kv_type = "fp8" if str(engine.get("kv_cache_dtype", "auto")).startswith("fp8") else "bf16"
    block_bytes = block_size * spec.token_bytes(kv_type, kv_type)
    blocks = kv_blocks or _blocks(meta, instance, spec, block_bytes, ring.ranks, directory, notes)
    max_seqs, max_tokens = (
        int(_said(meta, "scheduler", name) or 0)
        for name in ("max_num_seqs", "max_num_batched_tokens")
    )
    if not max_seqs or not max_tokens:
        raise InputError(
            f"{directory / 'meta.json'}: engine_kwargs: expected max_num_seqs and "
            "max_num_batched_tokens"
        )
    longest = int(_said(meta, "model", "max_model_len") or spec.max_context)
    # Block 0 is the null block, which holds nothing.
    budget = Budget(
        spec, (blocks + 1) * block_bytes, kv_type, kv_type, max_seqs, max_tokens, longest
    )
    costs = VllmCosts.of(
        max_seqs, max_tokens, longest, block_size, bool(engine.get("enforce_eager")), ring
    )
    captured = _resolved(meta, "compilation", "cudagraph_capture_sizes")
    if isinstance(captured, list):
        costs = replace(costs, graph_sizes=tuple(sorted(map(int, captured))))
    return RunSettings(
        budget=budget,
        hardware=_hardware(hardware, str(instance.get("hardware", "")), notes),
        costs=costs,
        block_size=block_size,
        blocks=blocks,
        prefix_cache=cache.get(
            "enable_prefix_caching", _said(meta, "cache", "enable_prefix_caching")
        )
        is not False,
        chunked_prefill=_said(meta, "scheduler", "enable_chunked_prefill") is not False,
        is_async=_is_async(meta),
        notes=notes,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected one JSON object")
    return value


def _table(meta: dict[str, Any], name: str) -> dict[str, Any]:
    value = meta.get(name)
    return value if isinstance(value, dict) else {}


def _resolved(meta: dict[str, Any], part: str, name: str) -> Any:
    """What the engine made of its arguments, where the run says so; else None."""
    return _table(_table(meta, "resolved_config"), f"{part}_config").get(name)


def _said(meta: dict[str, Any], part: str, name: str) -> Any:
    """A setting as asked for, else as the engine resolved it, else None."""
    asked = _table(meta, "engine_kwargs").get(name)
    return _resolved(meta, part, name) if asked is None else asked


def _instance_of(cluster: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        instance = cluster["nodes"][0]["instances"][0]
        return dict(instance)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected nodes[0].instances[0]") from error


def _model_file(directory: Path, meta: dict[str, Any]) -> str:
    path = directory / "model_config.json"
    return str(path) if path.exists() else str(meta.get("model", "")).rsplit("/", 1)[-1].lower()


def _blocks(
    meta: dict[str, Any],
    instance: dict[str, Any],
    model: ModelSpec,
    block_bytes: int,
    gpus: int,
    directory: Path,
    notes: list[str],
) -> int:
    """Blocks without the null block: as measured, as set, or what the memory leaves.

    block_bytes: of all GPUs together.
    """
    for table, name in (
        ("kv_cache", "num_gpu_blocks"),
        ("engine_kwargs", "num_gpu_blocks_override"),
    ):
        total = _table(meta, table).get(name)
        if isinstance(total, int) and total > 1:
            return total - 1
    given = _table(meta, "engine_kwargs").get("kv_cache_memory_bytes")
    if isinstance(given, int) and given * gpus >= 2 * block_bytes:
        return given * gpus // block_bytes - 1
    memory = _table(instance, "npu_mem")
    try:
        size, share = float(memory["mem_size"]), float(memory["mem_util"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{directory}: neither meta.json nor cluster.json says how many KV blocks there were: "
            "expected --kv-blocks"
        ) from None
    blocks = int((size * share * 2**30 * gpus - model.weight_bytes) // block_bytes)
    if blocks < 1:
        raise InputError(f"{directory}: the weights leave no KV memory: expected --kv-blocks")
    notes.append(
        f"KV blocks: {blocks:,}, what {share:g} of {size:g} GiB (cluster.json) leaves beside the "
        "weights; --kv-blocks says otherwise"
    )
    return blocks


def _ring(gpus: int, cluster: dict[str, Any], directory: Path) -> Ring:
    """The GPUs of the engine; LLMServingSim's cluster files say GiB a second and nanoseconds."""
    if gpus == 1:
        return ALONE
    try:
        bandwidth, latency = float(cluster["link_bw"]), float(cluster["link_latency"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{directory / 'cluster.json'}: expected link_bw (GiB/s) and link_latency (ns) of the "
            f"link between {gpus} GPUs"
        ) from None
    if not (bandwidth > 0 and latency >= 0):
        raise InputError(f"{directory / 'cluster.json'}: link_bw {bandwidth:g}: expected over 0")
    return Ring(gpus, bandwidth * 2**30, latency / 1e9)


def _hardware(given: str | None, name: str, notes: list[str]) -> HardwareSheet:
    """The sheet asked for, or the one whose name is that of the cluster's hardware."""
    if given is not None:
        return hardware_of(given)
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    for known in hardware_names():
        if known.replace("-", "") == plain:
            return hardware_of(known)
    notes.append(
        f"hardware {name or 'unknown'}: no sheet of that name, so the host link is taken to be "
        f"PCIe 5.0 x16 as in {DEFAULT_LINK}; --hardware says otherwise"
    )
    return hardware_of(DEFAULT_LINK)


def _is_async(meta: dict[str, Any]) -> bool:
    stated = _resolved(meta, "scheduler", "async_scheduling")
    if isinstance(stated, bool):
        return stated
    numbers = str(meta.get("vllm_version", "")).split(".")[:2]
    return all(part.isdigit() for part in numbers) and tuple(map(int, numbers)) >= ASYNC_SINCE
