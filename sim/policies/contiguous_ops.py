"""llama.cpp's sequence operations on contiguous reservations, as far as one run of cells can."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from sim.errors import UnsupportedOperation
from sim.policies.sequence_ops import SequenceOperations


@dataclass(slots=True)
class Slot:
    """``size`` cells from ``start`` on, ``live`` of them written, ``final`` needed in the end."""

    start: int
    size: int
    live: int
    final: int

    @property
    def reserved(self) -> int:
        """Cells that tokens to come will fill."""
        end = self.size if self.size < self.final else self.final
        return end - self.live if end > self.live else 0

    @property
    def internal(self) -> int:
        """Cells that nobody will ever fill."""
        return self.size - self.live - self.reserved


class ContiguousOperations(SequenceOperations):
    """Positions 0, 1, ... lie in a row, so a sequence can lose its tail and nothing else."""

    _slots: dict[int, Slot]

    @abstractmethod
    def _change(self, slot: Slot, size: int | None = None, live: int | None = None) -> None:
        """Set fields of ``slot``, counters included."""

    @abstractmethod
    def _reserve(self, seq: int, size: int, final: int) -> Slot | None:
        """A new slot of ``size`` cells, or None."""

    @abstractmethod
    def _give_back(self, seq: int) -> None:
        """Take the slot of ``seq`` away."""

    @abstractmethod
    def _owe(self, src: int, dst: int, n: int, kind: str) -> None:
        """Owe a copy of ``n`` cells."""

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """Remove a tail, or everything; False for a range that would leave a hole."""
        slot = self._slots.get(seq)
        if slot is None:
            return True
        first, end = max(p0, 0), slot.live if p1 < 0 else min(p1, slot.live)
        if first >= end:
            return True
        if end < slot.live:
            return False
        if first == 0:
            self._give_back(seq)
        else:
            self._change(slot, live=first)
        return True

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """Copy a head of ``src`` into a reservation of its own; whatever ``dst`` had is dropped."""
        source = self._slots.get(src)
        if source is None or src == dst:
            return
        end = source.live if p1 < 0 else min(p1, source.live)
        call = f"seq_cp({src}, {dst}, {p0}, {p1})"
        if p0 > 0:
            raise UnsupportedOperation(self.name, call, "a sequence starts at position 0")
        if dst in self._slots:
            self._give_back(dst)
        if end < 1:
            return
        target = self._reserve(dst, end, source.final)
        if target is None:
            raise UnsupportedOperation(self.name, call, f"no run of {end} free cells")
        self._change(target, live=end)
        # Making room may have moved the source: its address is read last.
        self._owe(source.start, target.start, end, "fork")

    def seq_keep(self, seq: int) -> None:
        """Drop all other reservations."""
        for other in [other for other in self._slots if other != seq]:
            self._give_back(other)

    def clear(self) -> None:
        """Drop all reservations."""
        for seq in list(self._slots):
            self._give_back(seq)

    def seq_pos_min(self, seq: int) -> int:
        """0 for a sequence with tokens."""
        return 0 if seq in self._slots and self._slots[seq].live else -1

    def seq_pos_max(self, seq: int) -> int:
        """One less than the number of tokens."""
        return self._slots[seq].live - 1 if seq in self._slots else -1

    def save(self, seq: int) -> tuple[int, int]:
        """Tokens, and the length that the sequence will have in the end."""
        slot = self._slots[seq]
        return slot.live, slot.final

    def restore(self, state: tuple[int, int], seq: int) -> bool:
        """A reservation for what was saved; False, with ``seq`` gone, where no run is left."""
        live, final = state
        if seq in self._slots:
            self._give_back(seq)
        slot = self._reserve(seq, live, final)
        if slot is not None:
            self._change(slot, live=live)
        return slot is not None
