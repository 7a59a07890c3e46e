"""`kvlab compare`: several policies on the same requests in the same memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kvlab.options import pairs
from workloads.errors import InputError

if TYPE_CHECKING:
    from kvlab.config import Comparison
    from reports.results import RunResult

MEMORY = ("kv_tokens", "kv_memory")
"""Two ways to say one thing: one on the command line overrides either in the file."""
PLAIN_WIDTH = 110
"""Columns of the printed tables where the output is no terminal."""


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(compare)


def compare(
    study: Path | None = typer.Argument(
        None, help="A TOML file with the same fields as the options below, which override it."
    ),
    model: str | None = typer.Option(
        None, help="Built-in model, config.json, GGUF file or TOML file."
    ),
    hardware: str | None = typer.Option(None, help="Built-in hardware sheet or TOML file."),
    tensor_parallel: int | None = typer.Option(
        None, help="Devices that divide the model; memory is that of each of them."
    ),
    kv_memory: str | None = typer.Option(None, help="K/V memory, for example 20GiB."),
    kv_tokens: int | None = typer.Option(
        None, help="K/V memory as tokens with every layer cached in full."
    ),
    kv_type: str | None = typer.Option(None, help="Type of cached K and V, for example f16, q8_0."),
    workload: str | None = typer.Option(None, help="Generator, or READER:PATH of a trace."),
    requests: int | None = typer.Option(None, help="Number of requests at most."),
    rate: float | None = typer.Option(None, help="Mean requests a second."),
    seed: int | None = typer.Option(None, help="Seed of all that is drawn."),
    policies: str | None = typer.Option(None, help="Policies, separated by commas."),
    policy_option: list[str] = typer.Option(
        [], metavar="POLICY.KEY=VALUE", help="Option of a policy; may be repeated."
    ),
    workload_option: list[str] = typer.Option(
        [], metavar="KEY=VALUE", help="Option of the workload; may be repeated."
    ),
    scheduler: str | None = typer.Option(None, help="Who decides what runs; docs/schedulers.md."),
    scheduler_option: list[str] = typer.Option(
        [], metavar="KEY=VALUE", help="Option of the scheduler; may be repeated."
    ),
    replicas: int | None = typer.Option(None, help="Engines that serve, each with that memory."),
    prefill_replicas: int | None = typer.Option(None, help="Engines that compute prompts alone."),
    decode_replicas: int | None = typer.Option(None, help="Engines that do the rest."),
    router: str | None = typer.Option(None, help="Who chooses among the engines."),
    router_option: list[str] = typer.Option(
        [], metavar="KEY=VALUE", help="Option of the router; may be repeated."
    ),
    link_bandwidth: str | None = typer.Option(
        None, help="Bytes a second from prefill to decode replicas, for example 50GB."
    ),
    host_cache: str | None = typer.Option(
        None, help="Host memory of each engine for K/V of prompts, for example 100GiB."
    ),
    disk_cache: str | None = typer.Option(None, help="Disk of each engine, likewise."),
    shared_cache: str | None = typer.Option(
        None, help="Of these, what is one for all engines together: host, disk or host,disk."
    ),
    speculate: int | None = typer.Option(
        None, help="Tokens that are drafted for each sequence and verified in one step."
    ),
    acceptance: str | None = typer.Option(
        None,
        metavar="RATE[,RATE...]",
        help="How often each draft is accepted if those before it were; or, as many rates as"
        " tokens, how often at least the first, the first two, ... are.",
    ),
    draft: str | None = typer.Option(None, help="Model that drafts; drafts are free without one."),
    draft_cost: float | None = typer.Option(
        None, help="Instead: time of one drafted token as a share of the step's."
    ),
    max_seqs: int | None = typer.Option(None, help="Sequences that may run at once."),
    max_batched_tokens: int | None = typer.Option(None, help="Tokens of one step."),
    max_model_len: int | None = typer.Option(None, help="Longest sequence in tokens."),
    block_size: int | None = typer.Option(None, help="Tokens of a block of paged policies."),
    time_model: str | None = typer.Option(
        None, help="roofline, or NAME:PATH: table, attention-tables, calibration."
    ),
    slo_ttft: float | None = typer.Option(None, help="Objective for the first token, seconds."),
    slo_tpot: float | None = typer.Option(None, help="Objective for the time per token, seconds."),
    exact_steps: bool = typer.Option(False, "--exact-steps", help="Take every step by itself."),
    out: Path | None = typer.Option(None, help="Write results, plots and report.html there."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
) -> None:
    """Compare policies on the same requests: table, verdict, plots, report."""
    from kvlab.config import Comparison
    from sim.tables import read_toml

    given: dict[str, Any] = read_toml(study) if study is not None else {}
    if study is not None:
        _refuse_sweep(study, given)
    plain = {
        "model": model,
        "hardware": hardware,
        "tensor_parallel": tensor_parallel,
        "kv_memory": kv_memory,
        "kv_tokens": kv_tokens,
        "kv_type": kv_type,
        "workload": workload,
        "requests": requests,
        "rate": rate,
        "seed": seed,
        "policies": _names(policies) if policies is not None else None,
        "scheduler": scheduler,
        "max_seqs": max_seqs,
        "max_batched_tokens": max_batched_tokens,
        "max_model_len": max_model_len,
        "block_size": block_size,
        "time_model": time_model,
        "exact_steps": exact_steps or None,
    }
    if kv_tokens is not None or kv_memory is not None:
        given = {name: value for name, value in given.items() if name not in MEMORY}
    given |= {name: value for name, value in plain.items() if value is not None}
    _merge(given, "workload_options", pairs(workload_option, "--workload-option"))
    cluster = {
        "replicas": replicas,
        "prefill_replicas": prefill_replicas,
        "decode_replicas": decode_replicas,
        "router": router,
        "link_bandwidth": link_bandwidth,
    }
    shared = _names(shared_cache) if shared_cache is not None else None
    tiers = {"host": host_cache, "disk": disk_cache, "shared": shared}
    _merge(given, "tiers", {k: v for k, v in tiers.items() if v is not None})
    drafts = {
        "tokens": speculate,
        "acceptance": acceptance,
        "draft": draft,
        "draft_cost": draft_cost,
    }
    _merge(given, "speculation", {k: v for k, v in drafts.items() if v is not None})
    _merge(given, "cluster", {k: v for k, v in cluster.items() if v is not None})
    _merge(
        given.setdefault("cluster", {}), "router_options", pairs(router_option, "--router-option")
    )
    _merge(given, "scheduler_options", pairs(scheduler_option, "--scheduler-option"))
    for key, value in pairs(policy_option, "--policy-option").items():
        policy, dot, name = key.rpartition(".")
        if not dot:
            raise InputError(f"--policy-option {key}={value}: expected POLICY.KEY=VALUE")
        _merge(given.setdefault("policy_options", {}), policy, {name: value})
    objectives = {"ttft_s": slo_ttft, "tpot_s": slo_tpot}
    stated = {name: value for name, value in objectives.items() if value is not None}
    if stated:
        _merge(given.setdefault("slo", {}), "default", stated)
    _run(Comparison.of(given, f"{study}: " if study is not None else ""), out, json)


def _run(comparison: Comparison, out: Path | None, as_json: bool) -> None:
    from kvlab.progress import Bars
    from kvlab.running import compare as run_all
    from reports.write import ensure_comparison_fits, write_comparison

    if out is not None:
        ensure_comparison_fits(out)
    with Bars(comparison.policies) as bars:
        runs = run_all(comparison, with_maps=out is not None, progress=bars.update)
    if out is not None:
        write_comparison(runs, out)
    if as_json:
        _print_json(runs)
    else:
        _print_table(runs, out)


def _print_json(runs: dict[str, RunResult]) -> None:
    import json

    summaries = {name: dict(run.summary) for name, run in runs.items()}
    json.dump(summaries, sys.stdout, indent=2, allow_nan=False)
    print()


def _print_table(runs: dict[str, RunResult], out: Path | None) -> None:
    from rich.console import Console

    from reports.cluster import cluster_lines
    from reports.speculation import speculation_lines
    from reports.table import terminal
    from reports.verdict import verdict_of

    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    summaries = {name: run.summary for name, run in runs.items()}
    console.print(terminal(summaries))
    for line in verdict_of(summaries).lines:
        console.print(line)
    for line in (*speculation_lines(summaries), *cluster_lines(summaries)):
        console.print(line)
    shared = next(iter(summaries.values()))["prefix_identity"]
    console.print(f"Shared prefixes known to the workload: {shared}")
    if out is not None:
        console.print(f"Report: {out / 'report.html'}", soft_wrap=True)


def _refuse_sweep(study: Path, given: dict[str, Any]) -> None:
    """Raise `InputError` for a file that asks for more than one comparison."""
    from kvlab.config import Comparison
    from kvlab.study.schema import Study

    more = [key for key in given if key in Study.model_fields.keys() - Comparison.model_fields]
    if more:
        raise InputError(
            f"{study}: {more[0]!r} makes it a study: run kvlab sweep {study} --out DIR"
        )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _merge(fields: dict[str, Any], name: str, more: dict[str, Any]) -> None:
    if more:
        fields[name] = {**fields.get(name, {}), **more}
