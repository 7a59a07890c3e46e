"""Waiting queues: first come first served, and by priority."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterator
from typing import ClassVar

from sim.compiled import mypyc_attr
from sim.sequence import Sequence


@mypyc_attr(allow_interpreted_subclasses=True)
class WaitingQueue(Collection[Sequence], ABC):
    """Sequences that wait for admission, in the order in which they would be admitted.

    keeps_order: whether whoever comes is queued behind all others.
    """

    keeps_order: ClassVar[bool] = False

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not len(self)

    @abstractmethod
    def push(self, seq: Sequence) -> None:
        """Queue up a new sequence."""

    @abstractmethod
    def put_back(self, seq: Sequence) -> None:
        """Queue a preempted sequence: before all others, where order of arrival is what counts."""

    @abstractmethod
    def first(self) -> Sequence:
        """The next to be admitted."""

    @abstractmethod
    def pop(self) -> Sequence:
        """Take the first out."""

    @abstractmethod
    def remove(self, seq: Sequence) -> None:
        """Take one out, wherever it is; `ValueError` if it does not wait."""


class FcfsQueue(WaitingQueue):
    """First come, first served."""

    keeps_order = True

    def __init__(self) -> None:
        self._queue: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._queue

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._queue)

    def __contains__(self, seq: object) -> bool:
        return seq in self._queue

    def push(self, seq: Sequence) -> None:
        """To the end."""
        self._queue.append(seq)

    def put_back(self, seq: Sequence) -> None:
        """To the front, so that several preempted sequences get their order back."""
        self._queue.appendleft(seq)

    def first(self) -> Sequence:
        """The longest waiting."""
        return self._queue[0]

    def pop(self) -> Sequence:
        """Take the first out."""
        return self._queue.popleft()

    def remove(self, seq: Sequence) -> None:
        """Take one out; `ValueError` if it does not wait."""
        self._queue.remove(seq)


class PriorityQueue(WaitingQueue):
    """By priority (small is urgent), then arrival, then id compared as text, as vLLM does."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, float, str], Sequence]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        return (seq for _, seq in sorted(self._heap, key=lambda item: item[0]))

    def __contains__(self, seq: object) -> bool:
        return any(other is seq for _, other in self._heap)

    def push(self, seq: Sequence) -> None:
        """To its place."""
        heapq.heappush(self._heap, ((seq.priority, seq.arrival, str(seq.id)), seq))

    def put_back(self, seq: Sequence) -> None:
        """To its place, like a new one."""
        self.push(seq)

    def first(self) -> Sequence:
        """The most urgent."""
        return self._heap[0][1]

    def pop(self) -> Sequence:
        """Take the first out."""
        return heapq.heappop(self._heap)[1]

    def remove(self, seq: Sequence) -> None:
        """Take one out; `ValueError` if it does not wait."""
        index = next((i for i, (_, other) in enumerate(self._heap) if other is seq), None)
        if index is None:
            raise ValueError(f"{seq!r} does not wait")
        self._heap[index] = self._heap[-1]
        self._heap.pop()
        heapq.heapify(self._heap)
