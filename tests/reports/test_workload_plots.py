"""Figures of a workload: equal data gives equal files, and extremes can be drawn."""

from pathlib import Path

import numpy as np
import pytest

from reports.plots.workload_load import _within
from reports.write_workload import write_workload
from workloads.spec import workload_of
from workloads.statistics import statistics_of


@pytest.mark.parametrize("spec", ["batch:requests=3", "sharegpt:requests=1"])
def test_extremes_can_be_drawn(spec: str, tmp_path: Path) -> None:
    write_workload(statistics_of(workload_of(spec)), tmp_path / "plots")
    for path in (tmp_path / "plots").iterdir():
        assert path.read_bytes().startswith((b"\x89PNG", b"<?xml"))


def test_figures_are_deterministic(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_workload(statistics_of(workload_of("agent:requests=30")), tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_load_of_an_interval() -> None:
    """Mean and most of what is under way, against counting at many instants."""
    statistics = statistics_of(workload_of("sharegpt:requests=200,rate=5"), 0.05)
    edges = np.linspace(0.0, float(statistics.ends.max()), 31)
    means, most = _within(statistics, edges)
    for first, last, mean, top in zip(edges, edges[1:], means, most, strict=False):
        instants = np.linspace(first, last, 2001)[:-1] + (last - first) / 4000
        under_way = [
            int(((statistics.starts <= at) & (statistics.ends > at)).sum()) for at in instants
        ]
        assert mean == pytest.approx(np.mean(under_way), abs=0.02)
        assert max(under_way) <= top <= max(under_way) + 1
