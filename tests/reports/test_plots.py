from __future__ import annotations

import io
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from scipy import stats

from reports.plots import PLOTS
from reports.plots.axes import interval_means, interval_rates, time_axis_of
from reports.plots.latency import cumulative
from reports.plots.memory_map import image_of
from reports.plots.occupancy import bands
from reports.style import SEQUENCE_COLORS, figure_style, sequence_palette, settle
from sim.owners import FREE, SHARED, UNUSED


def draw(name, runs):
    with figure_style():
        return import_module(PLOTS[name]).draw(runs)


def texts_of(figure):
    return {text.get_text() for text in figure.findobj(Text)}


def test_pictures_are_complete(drawn):
    _, pictures = drawn
    assert [picture.name for picture in pictures] == list(PLOTS)
    for picture in pictures:
        assert picture.caption.endswith(".")
        width, height = Image.open(io.BytesIO(picture.png)).size
        assert width == 1400 and height >= 400
        assert picture.svg.startswith(b"<?xml") and picture.svg.rstrip().endswith(b"</svg>")
        assert b"<dc:date>" not in picture.svg


def test_every_policy_is_named_in_every_figure(drawn):
    runs, _ = drawn
    for name in PLOTS:
        texts = texts_of(draw(name, runs))
        for policy in runs:
            assert any(policy in text for text in texts), (name, policy)


def test_each_cache_has_its_panel(drawn):
    figure = draw("memory_map", drawn[0])
    assert len(figure.axes) == 3
    assert {"base: 256 cells", "swa: 256 cells"} <= texts_of(figure)


def test_bands_add_up_to_the_capacity(make_run):
    for run in (make_run(contiguous=True), make_run()):
        total = bands(run).sum(axis=0)
        np.testing.assert_array_equal(total, run.timeline["capacity_bytes"])
        assert bands(run).min() >= 0


def test_means_keep_the_integral_and_rates_keep_the_count(make_run):
    run = make_run(rows=300)
    axis = time_axis_of({"a": run})
    times = run.timeline["time_s"].to_numpy()
    values = run.timeline["running"].to_numpy(float)
    edges, means = interval_means(run, axis, values)
    assert (means * np.diff(edges)).sum() == pytest.approx((values[:-1] * np.diff(times)).sum())
    assert values.min() - 1e-9 <= means.min() <= means.max() <= values.max() + 1e-9
    tokens = run.timeline["output_tokens"].to_numpy(float)
    edges, rates = interval_rates(run, axis, tokens)
    assert (rates * np.diff(edges)).sum() == pytest.approx(tokens[-1])
    stacked = interval_means(run, axis, np.array([values, 2 * values]))[1]
    np.testing.assert_allclose(stacked[1], 2 * stacked[0])


def test_one_very_long_run_is_cut_and_said(make_run):
    long = make_run("none", makespan_s=10_000.0)
    axis = time_axis_of({"none": long, "ring": make_run("ring"), "paged": make_run("paged")})
    assert axis.end < 100 and axis.beyond == {"none": 10_000.0}
    assert axis.note("none") == " (goes on to 10,000 s)" and axis.note("ring") == ""
    alone = time_axis_of({"none": long})
    assert alone.beyond == {} and (alone.scale, alone.unit) == (60.0, "min")


def test_cumulative_is_the_empirical_distribution():
    values = np.random.default_rng(1).lognormal(size=350)
    known = stats.ecdf(values).cdf
    ordered, shares = cumulative(np.append(values, np.nan))
    np.testing.assert_allclose(ordered, known.quantiles)
    np.testing.assert_allclose(shares, known.probabilities)


def test_thinned_distribution_keeps_both_ends():
    values = np.random.default_rng(1).lognormal(size=50_000)
    ordered, shares = cumulative(values)
    assert len(ordered) <= 400
    assert (ordered[0], ordered[-1]) == (values.min(), values.max())
    np.testing.assert_allclose(shares, [(values <= value).mean() for value in ordered])


def test_map_shows_each_owner_where_and_when_it_is():
    owners = np.array([[5, SHARED], [FREE, 26]])
    picture = image_of(owners, np.array([1.0, 2.0]), end=4.0)
    height, width, _ = picture.shape
    low, high = height // 4, 3 * height // 4
    early, first, second = width // 8, 3 * width // 8, 3 * width // 4
    white, black = np.ones(3), np.zeros(3)
    np.testing.assert_array_equal(picture[low, early], white)
    np.testing.assert_array_equal(picture[low, first], sequence_palette()[5])
    np.testing.assert_array_equal(picture[high, first], black)
    np.testing.assert_array_equal(picture[low, second], white)
    np.testing.assert_array_equal(picture[high, second], sequence_palette()[26 % SEQUENCE_COLORS])


def test_map_stripes_what_is_unused():
    picture = image_of(np.array([[UNUSED]]), np.array([0.0]), end=1.0)
    greys = np.unique(picture.reshape(-1, 3), axis=0)
    assert len(greys) == 2 and np.ptp(greys, axis=1).max() == 0
    assert np.mean(picture[..., 0] == greys[0, 0]) == pytest.approx(0.5, abs=0.01)


def empty_timeline(run):
    return replace(run, timeline=run.timeline.iloc[:0])


@pytest.mark.parametrize(
    "case",
    [
        lambda make: {"none": make("none", finish=False), "other": make("other", finish=False)},
        lambda make: {"short": make("short", rows=1)},
        lambda make: {"short": make("short", rows=1, makespan_s=0.0, requests=1)},
        lambda make: {"blind": make("blind", caches=0)},
        lambda make: {"empty": empty_timeline(make("empty", requests=1, makespan_s=0.0))},
        lambda make: {"$x$ <script>": make(), "_private": make(), "x" * 200: make()},
        lambda make: {f"mine-{index}": make(requests=10, rows=20) for index in range(5)},
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_runs_are_drawn_without_a_warning(make_run, case):
    runs = case(make_run)
    for name in PLOTS:
        figure = draw(name, runs)
        settle(figure)
        assert not any("mathdefault" in text for text in texts_of(figure))
