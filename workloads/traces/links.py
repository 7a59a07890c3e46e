"""Which rows of a file wait for which, and so which of them make a session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from workloads.errors import InputError
from workloads.parts import Parts
from workloads.request import Request, Session
from workloads.traces.lines import Lines


class Links:
    """The rows of a file as a graph, of which every connected part is a session.

    Rows are added in the order of the file, one a line, and count from 0; then `close` is called
    once. Memory: a few numbers a row, and the names that rows are waited for under.

    after: by row the rows whose ends it waits for.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._rows: dict[object, int] = {}
        self._names: list[tuple[object, ...]] = []
        self._fronts: dict[object, int] = {}
        self._in_front: list[int] = []
        self._opens: list[bool] = []
        self.after: list[tuple[int, ...]] = []
        self._rank: list[int] = []
        self._part: list[int] = []
        self._sizes = Counter[int]()
        self._roots: dict[int, int] = {}

    def add(
        self, lines: Lines, name: object, waits: tuple[object, ...], session: object, opens: bool
    ) -> None:
        """One more row.

        name: what others wait for it under, or None. waits: the names that it waits for.
        session: what it shares with the rows in front of it that it follows, or None. opens:
        whether it says when it starts, and nothing of a pause. Raises `InputError` through
        ``lines`` where the name was there before.
        """
        number = len(self._names)
        if name is not None and self._rows.setdefault(name, number) != number:
            raise lines.error(f"request_id: expected every name once, got {name!r} again")
        self._names.append(waits)
        self._in_front.append(-1 if session is None else self._fronts.get(session, -1))
        self._opens.append(opens)
        if session is not None:
            self._fronts[session] = number

    def close(self) -> None:
        """All rows are there. Raises `InputError` for unknown names and for circles.

        Where no row of the file names others, a row follows the one in front of it in its
        session; where some do, so does only one that names none and does not say when it starts.
        """
        named = any(self._names)
        for number, names in enumerate(self._names):
            front = self._in_front[number]
            if names:
                self.after.append(self._numbers_of(number, names))
            elif front >= 0 and not (named and self._opens[number]):
                self.after.append((front,))
            else:
                self.after.append(())
        self._set_parts()
        self._set_ranks()

    def _numbers_of(self, number: int, names: tuple[object, ...]) -> tuple[int, ...]:
        for name in names:
            if name not in self._rows:
                raise self._error(number, f"expected names of rows of this file, got {name!r}")
        return tuple(sorted({self._rows[name] for name in names}))

    def _set_parts(self) -> None:
        parts = Parts()
        for row, waits in enumerate(self.after):
            for other in waits:
                parts.join(row, other)
        self._part = [parts.part_of(row) for row in range(len(self.after))]
        self._sizes = Counter(self._part)

    def _set_ranks(self) -> None:
        """An order in which every row comes after those it waits for; else that of the file."""
        missing = [len(waits) for waits in self.after]
        waiting: dict[int, list[int]] = {}
        for row, waits in enumerate(self.after):
            for other in waits:
                waiting.setdefault(other, []).append(row)
        ready = [row for row, n in enumerate(missing) if not n]
        heapify(ready)
        self._rank = [-1] * len(missing)
        for rank in count():
            if not ready:
                break
            row = heappop(ready)
            self._rank[row] = rank
            self._roots.setdefault(self._part[row], row)
            for other in waiting.get(row, ()):
                missing[other] -= 1
                if not missing[other]:
                    heappush(ready, other)
        if -1 in self._rank:
            circle = self._rank.index(-1)
            raise self._error(circle, "expected rows that do not wait for each other in a circle")

    def _error(self, number: int, expected: str) -> InputError:
        return InputError(f"{self._path}:{number + 1}: wait_for: {expected}")

    def sessions(self, requests: Iterator[Request]) -> Iterator[Session]:
        """Whole sessions out of the requests of all rows, in the order of their first starts.

        Sets ids and ``after``; starts behind the first of a session count from that one. Holds
        what stands between the first and the last row of a session, and all behind it.
        """
        ids = count()
        held: dict[int, list[tuple[int, int, Request]]] = {}
        begun: list[int] = []
        for row, request in enumerate(requests):
            part = self._part[row]
            held.setdefault(part, []).append((self._rank[row], row, request))
            if self._roots[part] == row:
                begun.append(part)
            while begun and len(held[begun[0]]) == self._sizes[begun[0]]:
                yield self._session(held.pop(begun.pop(0)), ids)

    def _session(self, members: list[tuple[int, int, Request]], ids: Iterator[int]) -> Session:
        members.sort(key=lambda member: member[0])
        session: Session = []
        numbers: dict[int, int] = {}
        for _, row, request in members:
            numbers[row] = request.id = next(ids)
            request.after = tuple(numbers[other] for other in self.after[row])
            if session and not request.after:
                request.arrival -= session[0].arrival
            session.append(request)
        return session
