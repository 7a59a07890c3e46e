"""llama.cpp's sequence operations on the serving engine's sequence numbers."""

from __future__ import annotations

import heapq
from abc import abstractmethod
from typing import Any

from sim.compiled import mypyc_attr
from sim.llamacpp.context import Context
from sim.llamacpp.memory import Memory
from sim.policies.base import Policy


@mypyc_attr(allow_interpreted_subclasses=True)
class LlamaOperations(Policy):
    """Passes every operation on to the engine's memory, under the sequence's own id there."""

    context: Context
    memory: Memory
    _ids: dict[int, int]
    _free_ids: list[int]

    @abstractmethod
    def _open(self, seq: int) -> int:
        """The llama.cpp id of ``seq``; a new one if it has none."""

    @abstractmethod
    def _close(self, seq: int) -> None:
        """Give the id of ``seq`` back."""

    def adopt(self, seq: int, own: int) -> None:
        """Let ``seq`` be llama.cpp's sequence ``own`` from now on, with all that it holds.

        Whoever had that id before has none any more: llama-server's slots pass it on.
        """
        before = next((other for other, id in self._ids.items() if id == own), None)
        if before is None:
            self._free_ids.remove(own)
            heapq.heapify(self._free_ids)
        else:
            del self._ids[before]
        self._ids[seq] = own

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """``llama_memory_seq_rm``."""
        return seq not in self._ids or self.memory.seq_rm(self._ids[seq], p0, p1)

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """``llama_memory_seq_cp``; ``dst`` gets an id if it has none."""
        if src in self._ids:
            self.memory.seq_cp(self._ids[src], self._open(dst), p0, p1)

    def seq_keep(self, seq: int) -> None:
        """``llama_memory_seq_keep``, for the other sequences' ids too."""
        for other in [other for other in self._ids if other != seq]:
            self.memory.seq_rm(self._ids[other], -1, -1)
            self._close(other)

    def seq_add(self, seq: int, p0: int, p1: int, by: int) -> None:
        """``llama_memory_seq_add``."""
        if seq in self._ids:
            self.memory.seq_add(self._ids[seq], p0, p1, by)

    def seq_div(self, seq: int, p0: int, p1: int, by: int) -> None:
        """``llama_memory_seq_div``."""
        if seq in self._ids:
            self.memory.seq_div(self._ids[seq], p0, p1, by)

    def seq_pos_min(self, seq: int) -> int:
        """``llama_memory_seq_pos_min``."""
        return self.memory.seq_pos_min(self._ids[seq]) if seq in self._ids else -1

    def seq_pos_max(self, seq: int) -> int:
        """``llama_memory_seq_pos_max``."""
        return self.memory.seq_pos_max(self._ids[seq]) if seq in self._ids else -1

    def clear(self) -> None:
        """``llama_memory_clear``; all ids are free again."""
        self.memory.clear()
        for seq in list(self._ids):
            self._close(seq)

    def save(self, seq: int, partial: bool = False) -> Any:
        """``llama_state_seq_get_data``; partial: what removing positions cannot get back."""
        return self.context.state_seq_save(self._ids[seq], partial)

    def state_bytes(self, seq: int, partial: bool = False) -> int:
        """``llama_state_seq_get_size``: bytes that `save` would save."""
        return self.context.state_seq_size(self._ids[seq], partial)

    def restore(self, state: Any, seq: int) -> bool:
        """``llama_state_seq_set_data``; without room ``seq`` is gone."""
        if seq not in self._ids and not self._free_ids:
            return False
        read = self.context.state_seq_load(state, self._open(seq))
        if not read:
            self.memory.seq_rm(self._ids[seq], -1, -1)
            self._close(seq)
        return bool(read)
