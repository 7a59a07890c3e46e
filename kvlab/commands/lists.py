"""`kvlab policies | models | hardware | workloads`: what there is."""

from __future__ import annotations

import typer

CHECKED_MODELS = ("llama-3.1-8b", "gemma-3-1b", "mamba-2.8b", "lfm2-1.2b")
"""Full attention, windows beside it, states alone, states beside attention."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (policies, models, hardware, workloads):
        app.command()(command)


def policies(
    check: str | None = typer.Option(
        None, metavar="NAME", help="Serve random traffic through a policy, every cell watched."
    ),
    seed: int = typer.Option(0, min=0, help="Seed of that traffic."),
) -> None:
    """List policies and their options, or check one of your own (package.module:Class)."""
    import inspect
    from dataclasses import fields

    from sim.plugins import POLICIES

    if check is not None:
        _check(check, seed)
        return
    for name in POLICIES.names():
        policy = POLICIES.load(name)
        typer.echo(f"{name:12} {(inspect.getdoc(policy) or '').partition(chr(10))[0]}")
        if policy.lossy:
            typer.echo(f"{'':12} LOSSY: {policy.lossy}")
        for option in fields(policy.Options):
            text = option.metadata.get("text", "")
            typer.echo(f"{'':14}{name}.{option.name}={option.default}  {text}".rstrip())


def _check(name: str, seed: int) -> None:
    """Print what was done, or the first broken promise; exit status 1 for that.

    Models that the policy refuses are left out; raises `InputError` where it refuses them all.
    """
    from sim.budget import Budget
    from sim.checking import check_policy
    from sim.errors import PolicyError
    from sim.model_files import model_of
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
    from sim.model_files import model_names, model_of

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


def hardware() -> None:
    """List hardware sheets."""
    from sim.hardware import hardware_names, hardware_of

    typer.echo(f"{'sheet':14} {'memory':>9} {'bandwidth':>11} {'f16 dense':>13}")
    for name in hardware_names():
        sheet = hardware_of(name)
        typer.echo(
            f"{name:14} {sheet.memory_bytes / 2**30:5.1f} GiB"
            f" {sheet.memory_bandwidth / 1e9:6.0f} GB/s {sheet.flops / 1e12:6.0f} TFLOP/s"
        )


def workloads() -> None:
    """List generators and trace readers with their options."""
    from workloads.spec import descriptions

    for each in descriptions():
        typer.echo(f"{each.usage:14} {each.summary}")
        for option in each.options:
            typer.echo(f"{'':16}{option.name}={option.default}  {option.text}")
