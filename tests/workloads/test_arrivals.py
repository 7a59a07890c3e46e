"""Arrival processes: their rates, their spread, and how many clients are ever under way."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from workloads.arrivals import (
    Arrivals,
    AtOnce,
    ClosedLoop,
    ConstantRate,
    Diurnal,
    Gamma,
    OnOff,
    OpenLoop,
    Poisson,
    Replay,
)
from workloads.errors import InputError
from workloads.request import Request, Session
from workloads.sessions import numbered

AZURE = f"workloads.traces.azure:Azure:{Path(__file__).parent / 'data' / 'azure.csv'}"
AZURE_TIMES = [0.0, 4.314579, 4.3145791, 14.31941, 20653.81941]


def times_of(process: OpenLoop, n: int, seed: int = 0) -> np.ndarray:
    batches = process.batches(np.random.default_rng(seed))
    return np.array(list(islice((at for batch in batches for at in batch.tolist()), n)))


@pytest.mark.parametrize(
    ("process", "cv"),
    [(Poisson(5.0), 1.0), (Gamma(5.0, 3.0), 3.0), (Gamma(5.0, 0.5), 0.5), (ConstantRate(5.0), 0)],
)
def test_rate_and_burstiness(process: OpenLoop, cv: float) -> None:
    times = times_of(process, 100_000)
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert times[0] >= 0
    assert gaps.mean() == pytest.approx(0.2, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03, abs=1e-9)
    faster = times_of(process.at_rate(10.0), 100_000)
    assert faster[-1] == pytest.approx(times[-1] / 2)


def test_poisson_is_memoryless() -> None:
    gaps = np.diff(times_of(Poisson(1.0), 50_000))
    assert (gaps > 1).mean() == pytest.approx(np.exp(-1), abs=0.01)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02


def test_constant_rate_does_not_drift() -> None:
    times = times_of(ConstantRate(3.0), 9001)
    assert times[0] == 0.0
    assert times[9000] == 3000.0


def test_at_once() -> None:
    assert not times_of(AtOnce(), 5000).any()


def test_replay_ends_with_its_trace() -> None:
    assert times_of(Replay(AZURE), 100) == pytest.approx(AZURE_TIMES, abs=1e-12)
    assert times_of(Replay(AZURE, speedup=10.0), 100) == pytest.approx(np.array(AZURE_TIMES) / 10)
    stretched = times_of(Replay(AZURE).at_rate(2.0), 100)
    assert stretched[-1] == pytest.approx(4 / 2.0)


def test_on_off_has_phases() -> None:
    process = OnOff(rate=2.0, on=4.0, off=12.0)
    times = times_of(process, 60_000)
    assert len(times) / times[-1] == pytest.approx(2.0, rel=0.05)
    gaps = np.diff(times)
    # Eight a second while on, 32 in a phase. A silence that goes on for a second goes on for
    # another 12 on average.
    silences = gaps[gaps > 1.0]
    assert silences.mean() - 1.0 == pytest.approx(12.0, rel=0.08)
    assert len(times) / len(silences) == pytest.approx(32 * np.exp(1 / 12), rel=0.08)
    assert np.median(gaps) == pytest.approx(np.log(2) / 8, rel=0.08)
    assert OnOff(rate=3.0, off=0.0).at_rate(1.5) == OnOff(rate=1.5, off=0.0)


def test_diurnal_has_a_peak() -> None:
    process = Diurnal(rate=5.0, period=1000.0, swing=0.6, peak=250.0)
    times = times_of(process, 50_000)
    assert len(times) / times[-1] == pytest.approx(5.0, rel=0.02)
    counts = np.histogram(times % 1000.0, bins=10, range=(0, 1000))[0] / (times[-1] / 10)
    middles = np.arange(50, 1000, 100)
    expected = 5.0 * (1 + 0.6 * np.cos(2 * np.pi * (middles - 250) / 1000))
    assert counts == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("process", [OnOff(), OnOff(on=0.01, off=5.0), Diurnal(swing=1.0)])
def test_times_never_fall(process: Arrivals) -> None:
    times = times_of(process, 10_000)
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()


def test_same_seed_same_times() -> None:
    assert (times_of(Gamma(2.0), 9000, 7) == times_of(Gamma(2.0), 9000, 7)).all()
    assert (times_of(Gamma(2.0), 9000, 7) != times_of(Gamma(2.0), 9000, 8)).any()


def sessions_of(*pauses: list[float]) -> Iterator[Session]:
    for number, each in enumerate(pauses):
        yield [Request(0, pause, 10, 5, None, number, turn) for turn, pause in enumerate(each)]


def test_closed_loop_by_hand() -> None:
    """Two clients, three sessions; pauses in seconds, every request takes one."""
    sessions = numbered(sessions_of([2.0, 5.0], [1.0], [4.0, 0.5]), 5)
    traffic = ClosedLoop(2).traffic(sessions, np.random.default_rng(0))
    b, a = traffic.arrivals()
    assert (a.id, a.arrival, b.id, b.arrival) == (0, 2.0, 2, 1.0)
    (c,) = traffic.completed(b, 2.0)
    assert (c.id, c.conversation, c.arrival) == (3, 2, 6.0)
    (second,) = traffic.completed(a, 3.0)
    assert (second.id, second.turn, second.arrival) == (1, 1, 8.0)
    (last,) = traffic.completed(c, 7.0)
    assert (last.id, last.arrival) == (4, 7.5)
    assert not list(traffic.completed(second, 9.0))
    assert not list(traffic.completed(last, 8.5))


def test_open_loop_by_hand() -> None:
    traffic = ConstantRate(0.5).traffic(
        numbered(sessions_of([9.0, 3.0], [9.0]), 3), np.random.default_rng(0)
    )
    first, second = traffic.arrivals()
    assert (first.arrival, second.arrival) == (0.0, 2.0)
    (following,) = traffic.completed(first, 10.0)
    assert (following.id, following.arrival, following.after) == (1, 13.0, (0,))
    assert not list(traffic.completed(following, 14.0))
    assert not list(traffic.completed(second, 14.0))


def fork_and_join() -> Session:
    """0 sends off 1 and 2; 3 waits for both. Pauses 1, 2, 3 and 4 seconds."""
    return [
        Request(0, 1.0, 10, 5),
        Request(0, 2.0, 10, 5, after=(0,)),
        Request(0, 3.0, 10, 5, after=(0,)),
        Request(0, 4.0, 10, 5, after=(1, 2)),
    ]


@pytest.mark.parametrize("clients", [None, 1])
def test_fork_and_join_by_hand(clients: int | None) -> None:
    sessions = numbered(iter([fork_and_join(), fork_and_join()]), 8)
    process = ConstantRate(0.001) if clients is None else ClosedLoop(clients)
    traffic = process.traffic(sessions, np.random.default_rng(0))
    coming = traffic.arrivals()
    root = next(coming)
    start = 0.0 if clients is None else 1.0
    assert (root.id, root.arrival) == (0, start)
    one, two = traffic.completed(root, 10.0)
    assert [(each.id, each.arrival) for each in (one, two)] == [(1, 12.0), (2, 13.0)]
    assert not list(traffic.completed(two, 15.0))
    (join,) = traffic.completed(one, 20.0)
    assert (join.id, join.arrival, join.after) == (3, 24.0, (1, 2))
    after = list(traffic.completed(join, 30.0))
    if clients is None:
        assert not after
        second = next(coming)
        assert (second.id, second.arrival) == (4, 1000.0)
    else:
        assert [(each.id, each.arrival) for each in after] == [(4, 31.0)]


def test_the_last_session_is_cut_to_the_number_of_requests() -> None:
    sizes = [len(s) for s in numbered(sessions_of([0.0] * 3, [0.0] * 3, [0.0] * 3), 5)]
    assert sizes == [3, 2]


@pytest.mark.parametrize(
    "process",
    [Poisson(2.5), Gamma(1.0, 4.0), OnOff(3.0, 1.0), Diurnal(2.0), ClosedLoop(3), AtOnce()],
)
def test_text_form_reads_back(process: Arrivals) -> None:
    assert Arrivals.of(str(process)) == process


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Poisson(0.0), "poisson: rate: expected a finite number"),
        (lambda: Poisson(float("inf")), "got inf"),
        (lambda: Poisson(-1.0), "got -1.0"),
        (lambda: Gamma(1.0, 0.0), "gamma: cv:"),
        (lambda: ClosedLoop(0), "closed: clients: expected a whole number"),
        (lambda: ClosedLoop(2).at_rate(3.0), "arrivals 'closed' has no rate"),
        (lambda: AtOnce().at_rate(3.0), "arrivals 'at-once' has no rate"),
        (lambda: Arrivals.of("workloads.arrivals:Gamma:cv"), "expected KEY=VALUE"),
        (lambda: times_of(Replay("no.such:Thing"), 1), "no.such"),
    ],
)
def test_bad_options_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError) as refused:
        make()
    assert message in str(refused.value)
