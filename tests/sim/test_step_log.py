"""The step log against plain lists of all steps, also where runs were packed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sim.clock import TICKS_PER_SECOND
from sim.step_log import PACKED, Spans, StepLog
from sim.step_times import StepTimes


class Plain:
    """Every step by itself."""

    def __init__(self) -> None:
        self.ends: list[int] = []
        self.gaps: list[int] = []
        self.last = 0

    def step(self, start: int, ticks: int, streaming: int) -> None:
        end = start + ticks
        self.gaps += [end - self.last] * streaming
        self.ends.append(end)
        self.last = end


def filled(seed: int, runs: int) -> tuple[StepLog, Plain]:
    log, plain, draw = StepLog(), Plain(), random.Random(seed)
    now = 0
    while len(plain.ends) < runs:
        now += draw.choice((0, 0, 0, 7))
        if draw.random() < 0.5:
            ticks, streaming = draw.randrange(1, 50), draw.randrange(4)
            log.append(ticks, now + ticks, streaming)
            plain.step(now, ticks, streaming)
            now += ticks
            continue
        spans, start, streaming = Spans(), now, draw.randrange(4)
        for _ in range(draw.randrange(1, 6)):
            steps, ticks = draw.randrange(1, 4), draw.randrange(1, 50)
            spans.add(steps, ticks)
            for _ in range(steps):
                plain.step(now, ticks, streaming)
                now += ticks
        log.extend(start, spans, streaming)
        assert spans.duration == now - start
    return log, plain


def same(log: StepLog, ends: list[int], gaps: list[int]) -> None:
    times = StepTimes(log)
    assert (times.ends_between(0, log.steps) * TICKS_PER_SECOND).tolist() == ends
    draw = random.Random(len(ends))
    some = [draw.randrange(len(ends)) for _ in range(100)]
    assert (times.ends_at(np.array(some)) * TICKS_PER_SECOND).tolist() == [ends[i] for i in some]
    for _ in range(20):
        first, stop = sorted(draw.randrange(len(ends) + 1) for _ in range(2))
        part = times.ends_between(first, stop) * TICKS_PER_SECOND
        assert part.tolist() == ends[first:stop]
    assert log.steps == len(ends)
    found = [np.repeat(seconds * TICKS_PER_SECOND, counts) for seconds, counts in times.gaps()]
    assert sorted(np.concatenate(found).tolist()) == sorted(gaps)


@pytest.mark.parametrize(("seed", "runs"), [(1, 30), (2, PACKED), (3, 12 * PACKED)])
def test_every_step_and_every_gap_is_kept(
    seed: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.step_times.CHUNKS", 2)
    log, plain = filled(seed, runs)
    same(log, plain.ends, plain.gaps)


def test_logs_that_follow_each_other() -> None:
    first, one = filled(4, 2 * PACKED)
    second, other = filled(5, 50)
    first.follow_with(second)
    same(first, one.ends + other.ends, one.gaps + other.gaps)
    empty = StepLog()
    empty.follow_with(first)
    same(empty, one.ends + other.ends, one.gaps + other.gaps)


def test_ticks_before_a_step() -> None:
    spans = Spans()
    for steps, ticks in ((2, 5), (3, 7), (1, 11)):
        spans.add(steps, ticks)
    assert [spans.ticks_before(step) for step in range(6)] == [0, 5, 10, 17, 24, 31]
    assert (spans.steps, spans.duration, list(spans)) == (6, 42, [(2, 5), (3, 7), (1, 11)])
