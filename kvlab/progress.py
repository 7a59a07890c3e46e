"""Progress bars on the terminal; nothing where the output is not a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class _OnTerminal:
    """Bars with these columns, shown between enter and exit."""

    def __init__(self, *columns: ProgressColumn) -> None:
        console = Console(stderr=True)
        self._progress = Progress(SpinnerColumn(), *columns, console=console, transient=True)

    def __enter__(self) -> Self:
        if self._progress.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()


class Bars(_OnTerminal):
    """A line for each policy with the number of requests done."""

    def __init__(self, names: Iterable[str], requests: int | None = None) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed} requests"),
            TimeElapsedColumn(),
        )
        self._tasks = {
            name: self._progress.add_task(name, total=requests, start=False) for name in names
        }

    def update(self, name: str, done: int) -> None:
        """``done`` requests of ``name`` are over."""
        task = self._tasks[name]
        self._progress.start_task(task)
        self._progress.update(task, completed=done)


class PointsBar(_OnTerminal):
    """One bar for all points of a sweep, or for whatever else is counted, and the time left."""

    def __init__(self, what: str = "points") -> None:
        super().__init__(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task(what, total=None)

    def update(self, done: int, total: int) -> None:
        """``done`` of ``total`` are over."""
        self._progress.update(self._task, completed=done, total=total)
