from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from reports.style import BANDS, SEQUENCE_COLORS, label_of, looks_of, sequence_palette

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def test_known_policies_keep_their_look_in_any_company():
    alone = looks_of(["paged"])["paged"]
    assert looks_of(["zeta", "ring", "paged", "alpha"])["paged"] == alone


@pytest.mark.parametrize("count", [3, 8, 30])
def test_looks_differ_in_colour_or_dash(count):
    names = ["contiguous", "ring", "paged", *(f"mine-{index}" for index in range(count))]
    looks = looks_of(names)
    assert list(looks) == names
    assert len({(look.color, look.dash) for look in looks.values()}) == len(names)


def test_first_unknown_policies_differ_without_colour():
    looks = list(looks_of(["a", "b", "c", "d", "e"]).values())
    assert len({look.dash for look in looks}) == 5
    assert len({look.marker for look in looks}) == 5
    assert len({look.color for look in looks}) == 5


def test_more_policies_than_looks_still_get_one():
    assert len(looks_of([str(index) for index in range(200)])) == 200


def test_neighbouring_sequences_differ_in_colour_and_in_grey():
    palette = sequence_palette()
    assert palette.shape == (SEQUENCE_COLORS, 3)
    grey = palette @ LUMINANCE
    for step in (1, 2):
        other = np.roll(palette, -step, axis=0)
        assert np.abs(palette - other).sum(axis=1).min() > 0.45
    assert np.abs(grey - np.roll(grey, -1)).min() > 0.04


def test_sequence_colours_are_not_the_marked_ones():
    palette = sequence_palette()
    assert (palette.max(axis=1) - palette.min(axis=1)).min() > 0.3  # no grey, white or black


def test_bands_differ_in_fill():
    fills = [(band.color, band.hatch) for band in BANDS.values()]
    assert all(one != other for one, other in combinations(fills, 2))


def test_labels_are_cut_and_never_private():
    assert label_of("paged") == "paged"
    assert len(label_of("x" * 100)) == 28
    assert not label_of("_mine").startswith("_")


def test_marks_without_lines_can_be_told_apart():
    looks = looks_of(["ring", *(f"point {index}" for index in range(12))])
    assert len({(look.color, look.marker) for look in looks.values()}) == 13
