"""`python -m backends verify | calibrate`: both commands where only NumPy (and CuPy) is installed.

For bare GPU machines; with kvlab installed, `kvlab verify` and `kvlab calibrate` do the same and
more.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from backends.calibrate.prefill import AUTO, PREFILLS
from backends.calibrate.run import Request, calibrate
from backends.choice import BACKENDS, backend_of
from backends.verification.scenarios import scenarios_of
from sim.model_files.lookup import model_of
from workloads.errors import InputError

POLICIES = {
    "none": "sim.policies.none:NoCache",
    "contiguous": "sim.policies.contiguous:Contiguous",
    "ring": "sim.policies.ring:Ring",
    "paged": "sim.policies.paged:Paged",
    "iswa": "sim.policies.iswa:ISWA",
    "radix": "sim.policies.radix:Radix",
    "hybrid": "sim.policies.hybrid:Hybrid",
    "summary": "sim.policies.summary:Summary",
}
"""Where the built-in policies are, since without an installed package nobody says so."""


def main(arguments: list[str]) -> int:
    """Run a command; 1 where verification fails, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m backends", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="every scenario of the built-in policies")
    verify.add_argument("--policy", choices=POLICIES, nargs="+", default=list(POLICIES))
    verify.add_argument("--backend", choices=BACKENDS, default="numpy")
    measure = commands.add_parser("calibrate", help="measure this machine")
    measure.add_argument("--backend", choices=("numpy", "cupy"), default="numpy")
    measure.add_argument("--model", default="llama-3.1-8b")
    measure.add_argument("--kv-type", nargs="+", default=["f16"])
    measure.add_argument("--prefill", choices=PREFILLS, default=AUTO)
    measure.add_argument("--quick", action="store_true")
    measure.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        return _verify(given) if given.command == "verify" else _calibrate(given)
    except InputError as error:
        print(f"backends: {error}", file=sys.stderr)
        return 2


def _verify(given: argparse.Namespace) -> int:
    backend_of(given.backend)
    failed = 0
    for name in given.policy:
        for scenario in scenarios_of(name):
            outcome = scenario.outcome(POLICIES[name], given.backend)
            report = outcome.report
            failed += outcome.failed
            found = f"refused: {outcome.refusal}"
            if report is not None:
                result = "passed" if report.passed else "FAILED"
                found = f"{result}, {report.outputs} outputs, error {report.error:.1e}"
            print(f"{name}, {scenario.name}: {found}", flush=True)
            for line in [] if report is None else report.failures:
                print(f"  {line}")
    return int(failed > 0)


def _calibrate(given: argparse.Namespace) -> int:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    kinds = tuple(dict.fromkeys(given.kv_type))
    model = model_of(given.model)
    request = Request(model, given.backend, kinds, given.quick, now, given.prefill)
    data = calibrate(
        request, given.out, lambda done, points, key: print(f"{done}/{points} {key}", flush=True)
    )
    for kernel, error in data["errors"].items():
        sizes = [
            f"{name} {error[name]:.1%}" for name in ("median", "p95", "worst") if name in error
        ]
        print(f"{kernel}: {error['points']} points held out, {', '.join(sizes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
