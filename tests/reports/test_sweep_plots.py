"""Figures of sweeps: what they show follows from the frame, whatever the order of its rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.plots import dots, heat, lines, pareto, rendered
from reports.plots.tidy import Places, limits_of, points_of
from sim.metrics import Objectives


@pytest.fixture
def frame() -> pd.DataFrame:
    """Two policies, three rates, three seeds; what the third seed measured is the median."""
    rows = []
    for factor, policy in enumerate(("ring", "paged"), 1):
        for rate in ("10", "2", "4"):
            for seed, noise in enumerate((-0.1, 0.2, 0.0)):
                ttft = factor * float(rate) + noise
                share = 0.25 * factor
                rows.append((policy, rate, seed, str(seed), ttft, 100 * factor, share))
    names = ["policy", "rate", "seed", "id", "ttft_s.p99", "output_tokens_per_s", "prefix_hit_rate"]
    table = pd.DataFrame(rows, columns=names)
    return table.astype({"output_tokens_per_s": float})


def test_numbers_rise_and_words_keep_their_order(frame):
    assert Places.of(frame["rate"]) == Places(("2", "4", "10"), (2.0, 4.0, 10.0), True)
    assert Places.of(frame["policy"]) == Places(("ring", "paged"), (0.0, 1.0), False)


def test_points_are_medians_with_intervals_in_shown_units(frame):
    one = frame[frame["policy"] == "ring"]
    points = points_of(one, "rate", "ttft_s.p99", Places.of(one["rate"]))
    assert [point.median for point in points] == [2.0, 4.0, 10.0]
    assert [round(point.low, 6) for point in points] == [1.9, 3.9, 9.9]
    shares = points_of(one, "rate", "prefix_hit_rate", Places.of(one["rate"]))
    assert {point.median for point in shares} == {25.0}


def test_lines_have_one_curve_a_label_and_the_objectives(frame):
    limits = limits_of("ttft_s.p99", {"default": Objectives(ttft_s=3.0)})
    figure = lines.draw(frame, "rate", "ttft_s.p99", "policy", limits=limits)
    (axes,) = figure.axes
    ring, paged, objective = axes.lines
    assert list(ring.get_xdata()) == [2, 4, 10] and list(ring.get_ydata()) == [2, 4, 10]
    assert list(paged.get_ydata()) == [4, 8, 20]
    assert set(objective.get_ydata()) == {3.0}
    assert axes.get_ylabel() == "TTFT p99 (s)"
    assert limits_of("output_tokens_per_s", {"default": Objectives()}) == ()


def test_dots_have_a_row_a_label_and_intervals_of_the_seeds(frame):
    figure = dots.draw(frame[frame["rate"] == "2"], "policy", "ttft_s.p99")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ring", "paged"]
    intervals, medians = axes.lines[0::2], axes.lines[1::2]
    assert [line.get_xdata()[0] for line in medians] == [2.0, 4.0]
    ends = [[round(x, 6) for x in line.get_xdata()] for line in intervals]
    assert ends == [[1.9, 2.2], [3.9, 4.2]]
    assert axes.get_xlabel() == "TTFT p99 (s)"


def test_a_heat_map_leaves_cells_without_a_value_empty(frame):
    part = frame[(frame["policy"] == "ring") | (frame["rate"] != "4")]
    across, up = Places.of(part["rate"]), Places.of(part["policy"])
    cells = heat.cells_of(part, "rate", "policy", "ttft_s.p99", across, up)
    assert cells[0].tolist() == [2.0, 4.0, 10.0]
    assert np.isnan(cells[1, 1]) and cells[1, 2] == 20.0
    figure = heat.draw(part, "rate", "policy", "ttft_s.p99")
    assert [text.get_text() for text in figure.axes[0].texts] == ["2", "4", "10", "4", "20"]


def test_a_front_in_the_picture_is_made_of_medians(frame):
    figure = pareto.draw(frame, "output_tokens_per_s", "ttft_s.p99", "policy")
    front = figure.axes[0].lines[0]
    assert list(zip(*front.get_data(), strict=True)) == [(100.0, 2.0), (200.0, 4.0)]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_nobody_beats_the_front_and_everybody_else_is_beaten(points, x_higher, y_higher):
    x, y = np.array(points, float).T
    front = set(pareto.front_of(x, y, x_higher, y_higher))
    signs = (1 if x_higher else -1, 1 if y_higher else -1)
    for i, one in enumerate(points):
        beaten = any(
            other != one and all(s * o >= s * p for s, o, p in zip(signs, other, one, strict=True))
            for other in points
        )
        assert beaten == (i not in front)


def test_equal_frames_give_equal_bytes_in_any_order_of_seeds(frame):
    shuffled = frame.sort_values(["policy", "rate", "seed"], ascending=[False, True, False])
    first = rendered(lambda: lines.draw(frame, "rate", "ttft_s.p99", "policy"))
    second = rendered(lambda: lines.draw(shuffled, "rate", "ttft_s.p99", "policy"))
    assert first == second
