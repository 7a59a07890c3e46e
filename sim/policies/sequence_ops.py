"""llama.cpp's sequence operations, as every policy offers or refuses them.

The meaning is that of ``llama_memory_seq_*`` (``include/llama.h``): positions in [p0, p1), p0 < 0
from the start, p1 < 0 without end. Sequences are named by `sim.sequence.Sequence.id`.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from sim.compiled import mypyc_attr
from sim.errors import UnsupportedOperation


@mypyc_attr(allow_interpreted_subclasses=True)
class SequenceOperations:
    """All operations, refused; a policy overrides those that make sense for it."""

    name: ClassVar[str]

    def _refuse(self, operation: str) -> NoReturn:
        raise UnsupportedOperation(self.name, operation, "its layout has no such operation")

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """Forget ``seq`` in a range of positions; False, with nothing changed, if impossible."""
        self._refuse(f"seq_rm({seq}, {p0}, {p1})")

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """What ``src`` holds in a range is held by ``dst`` too."""
        self._refuse(f"seq_cp({src}, {dst}, {p0}, {p1})")

    def seq_keep(self, seq: int) -> None:
        """Forget all other sequences."""
        self._refuse(f"seq_keep({seq})")

    def seq_add(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Move the positions of ``seq`` in a range by ``by``."""
        self._refuse(f"seq_add({seq}, {p0}, {p1}, {by})")

    def seq_div(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Divide the positions of ``seq`` in a range by ``by``."""
        self._refuse(f"seq_div({seq}, {p0}, {p1}, {by})")

    def seq_pos_min(self, seq: int) -> int:
        """Lowest position of ``seq``, -1 if it holds none."""
        self._refuse(f"seq_pos_min({seq})")

    def seq_pos_max(self, seq: int) -> int:
        """Highest position of ``seq``, -1 if it holds none."""
        self._refuse(f"seq_pos_max({seq})")

    def clear(self) -> None:
        """Forget everything."""
        self._refuse("clear()")

    def save(self, seq: int) -> Any:
        """The state of ``seq``, for `restore`."""
        self._refuse(f"save({seq})")

    def restore(self, state: Any, seq: int) -> bool:
        """Let ``seq`` hold what was saved; False, with ``seq`` gone, where there is no room."""
        self._refuse(f"restore(..., {seq})")
