"""Progress bars on the terminal, one a policy; nothing where the output is not a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


class Bars:
    """A line for each policy with the number of requests done."""

    def __init__(self, names: Iterable[str], requests: int | None = None) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed} requests"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks = {
            name: self._progress.add_task(name, total=requests, start=False) for name in names
        }

    def update(self, name: str, done: int) -> None:
        """``done`` requests of ``name`` are over."""
        task = self._tasks[name]
        self._progress.start_task(task)
        self._progress.update(task, completed=done)

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
