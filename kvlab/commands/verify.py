"""`kvlab verify`: carry policies out on real K/V and compare with a dense reference."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from backends.verification.scenarios import Outcome, Scenario
    from backends.verify import VerifyReport

FAILED_CHECK = 1
SHOWN_FAILURES = 3
PLAIN_WIDTH = 140


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(verify)


def verify(
    policy: str = typer.Option(
        "none,contiguous,ring,paged,iswa,radix,hybrid,summary",
        help="Policies, separated by commas.",
    ),
    backend: str = typer.Option(
        "numpy", help="numpy, cupy (a GPU), or emulated (the CUDA kernels on the CPU)."
    ),
    workload: str | None = typer.Option(
        None, help="Generator, or READER:PATH; by default scenarios that exercise the policy."
    ),
    requests: int = typer.Option(16, min=1, help="Number of requests of the workload."),
    model: str | None = typer.Option(
        None, help="Built-in model or file; by default one with small heads (slow otherwise)."
    ),
    kv_tokens: int = typer.Option(4096, min=1, help="K/V memory in tokens, for a workload."),
    kv_type: str = typer.Option("f16", help="Type of cached K and V, for a workload."),
    max_seqs: int = typer.Option(8, min=1, help="Sequences at once, for a workload."),
    max_batched_tokens: int = typer.Option(512, min=1, help="Tokens of a step, for a workload."),
    swap: bool = typer.Option(False, "--swap", help="Preempt by swapping, for a workload."),
    at_once: bool = typer.Option(
        False, "--decode-runs", help="Also take runs of decode steps as one, for a workload."
    ),
    seed: int = typer.Option(0, min=0, help="Seed of the workload."),
    policy_option: list[str] = typer.Option(
        [], metavar="KEY=VALUE", help="Option of the policy, for a workload; may be repeated."
    ),
    json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
) -> None:
    """Write, move and attend over real K/V rows as policies say; exit status 1 where one errs."""
    from backends.choice import backend_of
    from backends.verification.scenarios import Scenario, scenarios_of
    from sim.model_files.lookup import model_of
    from sim.registries import POLICIES
    from workloads.errors import InputError
    from workloads.spec import workload_of

    backend_of(backend)
    names = [name.strip() for name in policy.split(",") if name.strip()]
    for name in names:
        POLICIES.load(name)
    given: list[Scenario] | None = None
    if workload is not None:
        given = [
            Scenario(
                workload,
                "full" if model is None else model_of(model),
                kv_tokens,
                kv_type,
                max_seqs,
                max_batched_tokens,
                workload_of(workload, requests=requests, seed=seed),
                _pairs(policy_option),
                {"preemption": "swap"} if swap else {},
                at_once,
            )
        ]
    elif model is not None or policy_option:
        raise InputError("--model and --policy-option go with --workload; scenarios have their own")
    outcomes = {
        name: list(_shown(name, given or list(scenarios_of(name)), backend)) for name in names
    }
    for name, found in outcomes.items():
        if all(each.refusal for each in found):
            raise InputError(found[0].refusal if given else f"{name}: every scenario is refused")
    if json:
        _print_json(outcomes)
    else:
        _print_table(outcomes)
    if any(each.failed for found in outcomes.values() for each in found):
        raise typer.Exit(FAILED_CHECK)


def _shown(policy: str, scenarios: list[Scenario], backend: str) -> Iterator[Outcome]:
    """Outcomes of a policy, with a bar while they come."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(
        (scenario.outcome(policy, backend) for scenario in scenarios),
        description=policy,
        total=len(scenarios),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _print_json(outcomes: dict[str, list[Outcome]]) -> None:
    import json

    found = {
        policy: {
            each.scenario.name: {"refused": each.refusal}
            if each.report is None
            else asdict(each.report) | {"passed": each.report.passed}
            for each in group
        }
        for policy, group in outcomes.items()
    }
    json.dump(found, sys.stdout, indent=2)
    print()


def _print_table(outcomes: dict[str, list[Outcome]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    table = Table("policy", "scenario", box=None, pad_edge=False)
    for title in ("steps", "outputs", "copied", "shifted", "swapped", "error", "rounding"):
        table.add_column(title, justify="right")
    table.add_column("result")
    for policy, group in outcomes.items():
        for each in group:
            table.add_row(policy, each.scenario.name, *_cells(each))
    console.print(table)
    failed = [
        f"{policy}, {each.scenario.name}: {line}"
        for policy, group in outcomes.items()
        for each in group
        if each.report is not None
        for line in each.report.failures[:SHOWN_FAILURES]
    ]
    for line in failed:
        console.print(line, soft_wrap=True, markup=False)


def _cells(outcome: Outcome) -> list[str]:
    report = outcome.report
    if report is None:
        return [*[""] * 7, f"refused: {outcome.refusal}"]
    rounding = f"{report.rounding:.1e}" if report.rounding else ""
    return [
        str(report.steps),
        str(report.outputs),
        str(report.copied),
        str(report.shifted),
        str(report.swapped),
        f"{report.error:.1e}",
        rounding,
        f"FAILED ({len(report.failures)})" if not report.passed else _passed(report),
    ]


def _passed(report: VerifyReport) -> str:
    return f"passed; lossy from step {report.lossy_from}" if report.lossy_from else "passed"


def _pairs(items: list[str]) -> dict[str, Any]:
    from workloads.errors import InputError

    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise InputError(f"--policy-option {item}: expected KEY=VALUE")
        pairs[key] = value
    return pairs
