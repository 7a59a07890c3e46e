import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.clock import on_tick, ticks_of, to_seconds, to_ticks

durations = st.lists(st.floats(0, 100), min_size=1, max_size=50)


@given(durations)
def test_sums_of_times_do_not_depend_on_their_grouping(seconds):
    ticks = ticks_of(np.array(seconds))
    one_by_one = 0.0
    for duration in ticks:
        one_by_one += to_seconds(int(duration))
    assert one_by_one == to_seconds(int(ticks.sum()))


@given(st.floats(0, 1e6))
def test_scalar_and_array_round_alike_and_within_half_a_tick(seconds):
    assert ticks_of(np.array([seconds]))[0] == to_ticks(seconds)
    assert abs(on_tick(seconds) - seconds) <= 2**-31
