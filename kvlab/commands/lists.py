"""`kvlab policies | schedulers | routers | models | hardware | workloads`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kvlab.quick import QuickCommand

if TYPE_CHECKING:
    from workloads.registry import Registry
    from workloads.spec import Description

PLAIN_WIDTH = 120
CHECKED_MODELS = ("llama-3.1-8b", "gemma-3-1b", "mamba-2.8b", "lfm2-1.2b")
"""Full attention, windows beside it, states alone, states beside attention."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (policies, schedulers, routers, models, hardware, workloads):
        app.command(cls=QuickCommand)(command)


def policies(
    check: str | None = typer.Option(
        None, metavar="NAME", help="Serve random traffic through a policy, every cell watched."
    ),
    seed: int = typer.Option(0, min=0, help="Seed of that traffic."),
) -> None:
    """List policies and their options, or check one of your own (package.module:Class)."""
    if check is not None:
        _check(check, seed)
        return
    from sim.policies.listing import listed_policies

    for name, policy in listed_policies():
        typer.echo(f"{name:12} {policy['summary']}")
        if policy["lossy"]:
            typer.echo(f"{'':12} LOSSY: {policy['lossy']}")
        for option, default, text in policy["options"]:
            typer.echo(f"{'':14}{name}.{option}={default}  {text}".rstrip())


def schedulers() -> None:
    """List schedulers and their options."""
    from sim.registries import SCHEDULERS

    _list(SCHEDULERS)


def routers() -> None:
    """List routers before the replicas of a cluster, and their options."""
    from sim.cluster.router import ROUTERS

    _list(ROUTERS)


def _list(registry: Registry) -> None:
    """The plug-ins of a kind whose options are a dataclass ``Options``."""
    import inspect
    from dataclasses import MISSING, fields

    for name in registry.names():
        plugin = registry.load(name)
        typer.echo(f"{name:14} {(inspect.getdoc(plugin) or '').partition(chr(10))[0]}")
        for option in fields(plugin.Options):
            made = option.default_factory
            default = option.default if made is MISSING else made()
            text = option.metadata.get("text", "")
            typer.echo(f"{'':16}{option.name}={default}  {text}".rstrip())


def _check(name: str, seed: int) -> None:
    """Print what was done, or the first broken promise; exit status 1 for that.

    Models that the policy refuses are left out; raises `InputError` where it refuses them all.
    """
    from sim.budget import Budget
    from sim.checking import check_policy
    from sim.errors import PolicyError
    from sim.model_files.lookup import model_of
    from sim.plugins import policy_of
    from workloads.errors import InputError

    served = 0
    for model in map(model_of, CHECKED_MODELS):
        size = 2048 * model.token_bytes() + 8 * model.state_bytes
        budget = Budget(model, bytes=size, max_seqs=8, max_model_len=512)
        try:
            policy_of(name, budget)
        except InputError as error:
            refusal = error
            continue
        served += 1
        try:
            steps = check_policy(lambda given: policy_of(name, given), budget, seed)
        except (AssertionError, PolicyError) as error:
            typer.echo(f"{name} on {model.name}, seed {seed}: {error}", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"{name} on {model.name}, seed {seed}: {steps} steps, every promise kept")
    if not served:
        raise refusal


def models() -> None:
    """List built-in models with the bytes that one token takes (f16)."""
    from sim.model_files.lookup import model_names, model_of

    typer.echo(f"{'model':16} {'layers':>6} {'parameters':>11} {'K/V per token':>14}  attention")
    for name in model_names():
        model = model_of(name)
        kinds = ", ".join(
            f"{group.layers} {group.kind}" + (f" {group.window}" if group.window else "")
            for group in model.groups()
        )
        per_token = f"{model.token_bytes() / 1024:g} KiB"
        size = f"{model.parameters / 1e9:.2f} B"
        typer.echo(f"{name:16} {len(model.layers):6} {size:>11} {per_token:>14}  {kinds}")


def hardware(
    calibration: str | None = typer.Argument(
        None, help="Calibration file, or the name of a shipped one, to be shown in full."
    ),
    plot: Path | None = typer.Option(
        None, help="Draw its predicted over its measured times into this file (.png or .svg)."
    ),
    against: str | None = typer.Option(
        None,
        metavar="PARQUET",
        help="Compare its attention with aiconfigurator's *_generation_attention_perf.parquet.",
    ),
    shapes: Path | None = typer.Option(
        None, help="Write every shape that was compared into this file (CSV)."
    ),
) -> None:
    """List hardware sheets and measured calibrations; or show one calibration."""
    from workloads.errors import InputError

    if calibration is not None:
        if shapes is not None and against is None:
            raise InputError("--shapes goes with --against")
        _show_calibration(calibration, plot, against, shapes)
        return
    if plot is not None or against is not None or shapes is not None:
        raise InputError("--plot, --against and --shapes go with a calibration")
    _list_sheets()
    _list_calibrations()


def _list_sheets() -> None:
    from sim.hardware import hardware_names, hardware_of

    typer.echo(f"{'sheet':14} {'memory':>9} {'bandwidth':>11} {'f16 dense':>13}")
    for name in hardware_names():
        sheet = hardware_of(name)
        typer.echo(
            f"{name:14} {sheet.memory_bytes / 2**30:5.1f} GiB"
            f" {sheet.memory_bandwidth / 1e9:6.0f} GB/s {sheet.flops / 1e12:6.0f} TFLOP/s"
        )


def _list_calibrations() -> None:
    """Shipped calibrations: of what, when, and how far off on points that were held out."""
    from sim.timing.calibration import read
    from sim.timing.calibrations import calibration_names, calibration_path

    names = calibration_names()
    if not names:
        typer.echo("\nno measured calibration ships yet: kvlab calibrate makes one of your device")
        return
    typer.echo(f"\n{'calibration':28} {'median':>7} {'p95':>7}  device, model, date")
    for name in names:
        data = read(calibration_path(name))
        judged = [error for error in data["errors"].values() if "median" in error]
        worst = [max(error[which] for error in judged) for which in ("median", "p95")]
        typer.echo(
            f"{name:28} {worst[0]:7.1%} {worst[1]:7.1%}"
            f"  {data['device']}, {data['model']}, {data['date']}"
        )
    typer.echo("errors: of the kernel that is predicted worst, on points that were not fitted")


def _show_calibration(
    name: str, plot: Path | None, against: str | None, shapes: Path | None
) -> None:
    from rich.console import Console

    from reports.calibration import error_table, write_plot
    from reports.calibration_check import pair_table, pairs_of, write_pairs
    from sim.model_files.lookup import model_of
    from sim.timing.calibration import read
    from sim.timing.calibrations import calibration_path

    data = read(calibration_path(name))
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(f"{data['device']}, {data['model']}, {data['date']}", markup=False)
    console.print("Prediction of points that were not fitted, off by (relative):")
    console.print(error_table(data))
    if plot is not None:
        write_plot(data, plot)
    if against is not None:
        pairs = pairs_of(data, model_of(data["model"]), against)
        console.print(pair_table(pairs))
        if shapes is not None:
            write_pairs(pairs, shapes)


def workloads() -> None:
    """List generators, trace readers, arrival processes and lengths with their options."""
    from workloads.arrivals import Arrivals
    from workloads.lengths import Lengths
    from workloads.spec import descriptions

    known = descriptions()
    readers = [each for each in known if each.usage.endswith(":PATH")]
    generators = [each for each in known if each not in readers]
    _section("Generators", generators)
    _section("Readers of recorded traffic; a path alone is read by the one that knows it", readers)
    _section("Arrival processes, as arrivals=NAME:KEY=VALUE,...", descriptions(Arrivals.registry))
    _section("Lengths, as output=NAME:KEY=VALUE,...", descriptions(Lengths.registry))


def _section(title: str, parts: list[Description]) -> None:
    """Descriptions under a title; options that all of them have are printed once, in front."""
    common = [line for line in parts[0].options if all(line in each.options for each in parts)]
    typer.echo(f"{title}:")
    for line in common if len(parts) > 1 else []:
        typer.echo(f"{'':6}{line.name}={line.default}  {line.text}")
    for each in parts:
        typer.echo(f"  {each.usage:20} {each.summary}")
        for line in each.options:
            if line not in common or len(parts) == 1:
                typer.echo(f"{'':6}{line.name}={line.default}  {line.text}")
    typer.echo()
