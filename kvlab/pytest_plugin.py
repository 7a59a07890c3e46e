"""A pytest fixture, so that a test suite can hold the gate: ``kvlab_check("baseline.json")``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Check = Callable[..., None]


@pytest.fixture(scope="session")
def kvlab_check() -> Check:
    """A function that runs a stored baseline again and fails the test with what changed.

    It takes the path of the baseline; ``allow_better=True`` lets improvements pass.
    """

    def run(baseline: str | Path, *, allow_better: bool = False) -> None:
        from kvlab.study.gate import check
        from reports.gate_output import text

        __tracebackhide__ = True
        verdict, _ = check(Path(baseline), jobs=1)
        if verdict.is_worse or (not verdict.passes and not allow_better):
            pytest.fail(text(verdict), pytrace=False)

    return run
