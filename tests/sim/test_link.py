"""Links against arithmetic done by hand, and against a plain simulation of equal shares."""

from fractions import Fraction

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.clock import TICKS_PER_SECOND
from sim.link import FairLink


def ends_of(transfers: list[tuple[float, int]], bandwidth: float, latency: float = 0.0):
    """When each of (start, bytes) ends, and the link."""
    env = simpy.Environment()
    link = FairLink(env, bandwidth, latency)
    ends = [0.0] * len(transfers)

    def send(index: int, start: float, size: int):
        yield env.timeout(start)
        yield from link.transfer(size)
        ends[index] = env.now

    for index, (start, size) in enumerate(transfers):
        env.process(send(index, start, size))
    env.run()
    return ends, link


def test_two_transfers_share_and_the_rest_goes_at_full_speed() -> None:
    # 100 bytes/s. Alone from 0 to 1: 100 of 300 bytes. From 1 on two of 50 bytes/s each: the
    # second has its 100 bytes at 3; then 100 bytes of the first are left: until 4.
    ends, link = ends_of([(0.0, 300), (1.0, 100)], 100.0)
    assert ends == [4.0, 3.0]
    assert link.bytes_carried == 400
    assert link.busy_ticks == 4 * TICKS_PER_SECOND


def test_three_at_once_and_an_idle_time() -> None:
    # 30 bytes/s for each of three until the smallest has its 60 bytes at 2, then 45 each for two.
    ends, link = ends_of([(0.0, 60), (0.0, 105), (0.0, 150), (10.0, 90)], 90.0)
    assert ends == [2.0, 3.0, 3.5, 11.0]
    assert link.busy_ticks == 4.5 * TICKS_PER_SECOND
    assert link.active == 0


def test_latency_takes_no_share() -> None:
    assert ends_of([(0.0, 100), (0.5, 100)], 100.0, latency=0.25)[0] == [1.75, 2.25]
    assert ends_of([(0.0, 0)], 100.0)[0] == [0.0]


def shared(transfers: list[tuple[int, int]], rate: Fraction) -> list[Fraction]:
    """Exact ends (ticks) where everybody on the link gets an equal share; event by event."""
    left = {i: Fraction(size) for i, (_, size) in enumerate(transfers)}
    now, ends = Fraction(0), [Fraction(0)] * len(transfers)
    while left:
        active = [i for i in left if transfers[i][0] <= now]
        starts = [Fraction(transfers[i][0]) for i in left if transfers[i][0] > now]
        if not active:
            now = min(starts)
            continue
        speed = rate / len(active)
        until = min([now + min(left[i] for i in active) / speed, *starts])
        for i in active:
            left[i] -= (until - now) * speed
            if not left[i]:
                ends[i] = until
                del left[i]
        now = until
    return ends


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 9000)), min_size=1, max_size=8),
    st.integers(1, 700),
)
def test_exact_to_a_tick(transfers: list[tuple[int, int]], rate: int) -> None:
    bandwidth = rate * TICKS_PER_SECOND / 64
    ends, link = ends_of([(t / TICKS_PER_SECOND, n) for t, n in transfers], bandwidth)
    exact = shared(transfers, Fraction(rate, 64))
    for end, expected in zip(ends, exact, strict=True):
        # Every end before may have been half a tick early or late.
        assert end * TICKS_PER_SECOND == pytest.approx(float(expected), abs=0.5 * len(transfers))
    assert link.bytes_carried == sum(n for _, n in transfers)
