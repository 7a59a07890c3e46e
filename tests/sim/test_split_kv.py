"""The change of the decode kernel: where it lies, and that no line leads across it."""

from dataclasses import replace

import numpy as np
import pytest

from sim.groups import LayerGroup
from sim.hardware import hardware_names, hardware_of
from sim.timing.grid import Grid
from sim.timing.split_kv import unsplit_from
from sim.timing.vllm_costs import graph_sizes

LLAMA = LayerGroup("full", tuple(range(32)), heads=32, kv_heads=8)
GRAPHS = graph_sizes(128, 2048)


def splits(blocks, places, key_tiles):
    """FlashAttention-2's heuristic written down again: the fewest splits nearly as busy as any."""
    if blocks >= 0.8 * places:
        return 1
    busy = []
    for count in range(1, min(128, places, key_tiles) + 1):
        same = count > 1 and -(-key_tiles // count) == -(-key_tiles // (count - 1))
        waves = blocks * count / places
        busy.append(0.0 if same else waves / np.ceil(waves))
    return 1 + next(i for i, each in enumerate(busy) if each >= 0.85 * max(busy))


@pytest.mark.parametrize("name", ["rtx-pro-6000", "rtx-4090", "l40s", "a100-80", "rtx-5090"])
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_the_first_count_that_is_not_split_is_that_of_the_heuristic(name, ranks):
    hardware = hardware_of(name)
    heads, places = 8 // ranks, 2 * hardware.multiprocessors
    padded = [0, *(min(size for size in GRAPHS if size >= n) for n in range(1, 257))]
    for graphs, rows in ((GRAPHS, padded), ((), range(257))):
        whole = [n for n in range(1, 257) if splits(rows[n] * heads, places, 1024) == 1]
        found = unsplit_from(hardware, LLAMA, ranks, graphs)
        assert (whole[0] if whole else 257) == min(found, 257)


def test_on_the_measured_gpu_it_lies_between_32_and_33_sequences():
    assert unsplit_from(hardware_of("rtx-pro-6000"), LLAMA, 1, GRAPHS) == 33
    assert unsplit_from(hardware_of("rtx-pro-6000"), LLAMA, 1, ()) == 38


def test_other_kernels_do_not_change_there():
    for name in ("h100", "h200", "b200", "mi300x", "cpu-16", "m2-ultra"):
        assert unsplit_from(hardware_of(name), LLAMA, 1, GRAPHS) is None
    ungrouped = replace(LLAMA, kv_heads=32)
    assert unsplit_from(hardware_of("rtx-4090"), ungrouped, 1, GRAPHS) is None


def test_sheets_of_nvidia_gpus_say_what_they_are():
    silent = {n for n in hardware_names() if hardware_of(n).multiprocessors is None}
    assert silent == {"mi300x", "cpu-16", "m2-ultra"}
    assert silent == {n for n in hardware_names() if hardware_of(n).compute_capability is None}


def test_no_line_leads_across_a_jump():
    # 10 a step up to 16, and 100 + 1 a step from 32 on; twice that at the second length.
    points = [(n, k) for n in (8, 16, 32, 64) for k in (1, 2)]
    values = [k * (10 * n if n < 25 else 100 + n) for n, k in points]
    grid = Grid(("n", "length"), np.array(points, dtype=float), np.array(values, dtype=float))
    parted = grid.parted(25)
    for n in (8, 12, 16, 20, 24, 25, 28, 32, 50, 64, 70):
        lengths = np.array([1.0, 1.5, 2.0])
        expected = lengths * (10 * n if n < 25 else 100 + n)
        assert parted.at(n, lengths) == pytest.approx(expected)
    assert parted.at(24, 1) == 240 and grid.at(24, 1) == 146
    assert parted.outside == ["n from 70 to 70 asked, 8 to 64 profiled"]
    # At a measured point only the other side gets a new one; without two points there is none.
    assert grid.parted(32).at(31, 1) == 310 and grid.parted(32).at(32, 1) == 132
    assert grid.parted(16) is grid and grid.parted(64) is grid
