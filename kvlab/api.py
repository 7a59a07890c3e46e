"""The Python face: the same comparison as on the command line, as tidy frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kvlab.config import Comparison
from kvlab.running import compare as run_all
from reports.results import RunResult
from reports.write import write_comparison


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison gave. ``runs``: the result of each policy by name."""

    runs: dict[str, RunResult]

    @property
    def summary(self) -> pd.DataFrame:
        """One row a policy; nested metrics become columns such as ``ttft_s.p99``."""
        frame = pd.json_normalize(
            [
                {name: value for name, value in run.summary.items() if not isinstance(value, list)}
                for run in self.runs.values()
            ]
        )
        return frame.set_index("policy")

    @property
    def requests(self) -> pd.DataFrame:
        """One row a sequence and policy."""
        return self._stacked("requests")

    @property
    def timeline(self) -> pd.DataFrame:
        """One row a sample and policy."""
        return self._stacked("timeline")

    def _stacked(self, frame: str) -> pd.DataFrame:
        parts = {policy: getattr(run, frame) for policy, run in self.runs.items()}
        stacked: pd.DataFrame = pd.concat(parts, names=["policy"]).reset_index(level="policy")
        return stacked


def compare(out: str | Path | None = None, **setting: Any) -> ComparisonResult:
    """Run the policies of a comparison on the same requests.

    ``setting``: fields of `kvlab.config.Comparison`, the names of the command line's options with
    underscores. ``out``: also write results, plots and report there. Raises `InputError`.
    """
    runs = run_all(Comparison.of(setting), with_maps=out is not None)
    if out is not None:
        write_comparison(runs, Path(out))
    return ComparisonResult(runs)
