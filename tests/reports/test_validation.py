"""Two sides of a run: statistics, load over time, and the files that are written."""

import json

import numpy as np
import pytest

from reports.validation import RunTimes, differences, largest_difference
from reports.write_validation import write_validation
from workloads.errors import InputError


def times(stretch=1.0, outputs=(5, 1, 3)):
    """Three requests; from their arrival on everything takes ``stretch`` times as long."""
    arrival = np.array([0.0, 1.0, 2.0])
    moments = [arrival + stretch * np.array(after) for after in
               ([0.5, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 2.0, 1.0], [5.0, 2.0, 3.0])]  # fmt: skip
    return RunTimes(arrival, *moments, np.array([10, 20, 30]), np.array(outputs), 100)


def test_latencies_are_those_of_the_published_definitions():
    run = times()
    assert run.ttft.tolist() == [0.5, 2.0, 1.0]
    assert run.ttft_from_arrival.tolist() == [1.0, 2.0, 1.0]
    assert run.tpot.tolist() == [1.0, 1.0]  # the request with one token has none
    assert run.e2e.tolist() == [4.5, 2.0, 3.0]


def test_differences_are_in_per_cent_of_what_was_measured():
    found = differences(times(), times(1.1))
    assert list(found) == ["ttft", "tpot", "e2e"]
    for row in found.values():
        assert list(row) == ["mean", "median", "p90", "p95", "p99"]
        for each in row.values():
            assert set(each) == {"measured", "simulated", "diff_percent"}
            assert each["diff_percent"] == pytest.approx(10.0)
    assert found["e2e"]["mean"]["measured"] == pytest.approx(9.5 / 3)
    assert found["e2e"]["p90"]["measured"] == pytest.approx(np.percentile([4.5, 2, 3], 90))
    assert largest_difference(found) == pytest.approx(10.0)
    assert largest_difference(differences(times(), times())) == 0.0


def test_a_run_of_single_tokens_has_no_tpot():
    assert list(differences(times(outputs=(1, 1, 1)), times())) == ["ttft", "e2e"]


def test_load_over_time():
    run = times()
    at = np.array([0.0, 0.25, 0.75, 1.2, 2.9, 3.5, 6.0])
    # Running from 0.5 to 5, from 1.5 to 3, and from 2 to 5.
    assert run.running(at).tolist() == [0, 0, 1, 1, 3, 2, 0]
    # Waiting from 1 to 1.5 the second one; queued at 0.5, the first is scheduled at once.
    assert run.waiting(at).tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert run.generated(np.array([0.9, 1.0, 2.0, 6.0])).tolist() == [0, 1, 2, 9]
    # Half of the first prompt at 0.75; all of it and half of four outputs at 3.0, and so on.
    assert run.occupancy(np.array([0.75, 1.0, 6.0])).tolist() == [0.05, 0.1, 0.0]
    assert run.output_rate == pytest.approx(9 / 5)
    assert run.total_rate == pytest.approx(69 / 5)


def test_files_are_written_and_replaced(tmp_path):
    target = tmp_path / "out"
    for _ in range(2):
        write_validation(times(), times(1.1), target)
    found = json.loads((target / "validation.json").read_text())
    assert found["ttft"]["median"]["diff_percent"] == pytest.approx(10.0)
    names = {path.name for path in (target / "plots").iterdir()}
    assert names == {"latency.png", "latency.svg", "load.png", "load.svg"}
    (target / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="did not write"):
        write_validation(times(), times(), target)
