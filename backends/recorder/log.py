"""What llama.cpp logs, line by line, with the debugging that shows its cells turned on."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from backends.recorder.library import LogCallback

#: Read by llama.cpp when a context is made: 3 dumps the cells of every stream before each search
#: for cells, 2 lists the tokens of every ubatch.
DEBUG_ENVIRONMENT = {
    "LLAMA_KV_CACHE_DEBUG": "3",
    "LLAMA_BATCH_DEBUG": "2",
    "GGML_NO_BACKTRACE": "1",
}

#: ``enum ggml_log_level``.
INFO, WARN, ERROR = 2, 3, 4


@dataclass(frozen=True, slots=True)
class Line:
    """One message: its level and its text as logged."""

    level: int
    text: str


class Log:
    """Everything the library has logged and nobody has taken yet."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Redirects the library's log here, for as long as this object lives."""
        self._lines: list[Line] = []
        self._callback = LogCallback(self._on_message)  # the library holds no reference to it
        library.llama_log_set(self._callback, None)

    def take(self) -> list[Line]:
        """The messages since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def _on_message(self, level: int, text: bytes, _user_data: int | None) -> None:
        self._lines.append(Line(level, text.decode(errors="replace")))
