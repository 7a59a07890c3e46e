"""What ``seq_*`` calls do to the cells of one stream (``llama_kv_cache::seq_rm`` and its kin).

A range is [p0, p1) with p0 >= 0; p1 is None for no upper end. Functions that free cells return the
first freed cell, or -1: the head moves there.
"""

from __future__ import annotations

import numpy as np

from sim.llamacpp.cells import EMPTY, NOBODY, SHARED, Cells
from sim.llamacpp.dues import OWNER_SHIFT
from sim.llamacpp.growth import has_receded

_ALL_BITS = 2**64 - 1


def remove(cells: Cells, seq: int, p0: int, p1: int | None) -> int:
    """Take ``seq`` from its cells in the range; cells left without an owner are freed."""
    is_all = p0 == 0 and p1 is None
    held = cells.all_of(seq) if is_all else cells.cells_of(seq, p0, p1)
    if held.size == 0:
        return -1
    freed = held
    if cells.n_shared:
        owner = cells.owner[held]
        shared, freed = held[owner == SHARED], held[owner == seq]
        if shared.size:
            assert cells.sets is not None
            cells.sets[shared, seq >> 6] &= np.uint64(_ALL_BITS ^ (1 << (seq & 63)))
            cells.settle(shared)
    cells.empty(freed)
    last = int(cells.spans.end[seq])
    cells.spans.trim_range(seq, p0, last if p1 is None else p1)
    if not is_all and (p1 is None or p1 >= last):
        has_receded(cells, seq)
    return int(freed.min()) if freed.size else -1


def remove_all(cells: Cells, p0: int, p1: int | None) -> int:
    """Free every cell in the range, whoever holds it."""
    mask = cells.pos >= p0
    if p1 is not None:
        mask &= cells.pos < p1
    gone = np.flatnonzero(mask)
    if gone.size == 0:
        return -1
    cells.free(gone)
    return int(gone[0])


def keep(cells: Cells, seq: int) -> int:
    """Free the cells that do not hold ``seq``; the others are held by it alone.

    Cells of nobody stay as they are: the engine's ``seq_keep`` only looks at cells with owners.
    """
    kept = cells.holding(seq)
    cells.has_changed(seq)
    gone = np.flatnonzero(~kept & (cells.owner != EMPTY) & (cells.owner != NOBODY))
    shared = np.flatnonzero(kept & (cells.owner == SHARED))
    if shared.size:
        assert cells.sets is not None
        cells.spans.stale.update(cells.holders(shared) - {seq})
        cells.owner[shared] = seq
        cells.sets[shared] = 0
        cells.n_shared -= shared.size
    if gone.size == 0:
        return -1
    cells.free(gone)
    return int(gone[0])


def add_owner(cells: Cells, src: int, dst: int, p0: int, p1: int | None) -> None:
    """``src``'s cells in the range are held by ``dst`` too."""
    held = cells.cells_of(src, p0, p1)
    if held.size == 0:
        return
    owner = cells.owner[held]
    shared, alone = held[owner == SHARED], held[owner == src]
    if shared.size:
        cells.own_sets(dst // 64 + 1)[shared, dst >> 6] |= np.uint64(1 << (dst & 63))
    if alone.size:
        cells.share(alone, (src, dst))
    cells.spans.stale.add(dst)
    cells.has_changed(dst)


def move_positions(cells: Cells, seq: int, p0: int, p1: int | None, by: int) -> int:
    """Add ``by`` to the positions of ``seq``'s cells in the range, for all who share them.

    Cells that fall below position 0 are freed.
    """
    held = cells.cells_of(seq, p0, p1)
    if held.size == 0:
        return -1
    for owner in cells.holders(held):
        cells.has_changed(owner)
    whole = not cells.n_shared and held.size == cells.count_of(seq)
    cells.has_shift = True
    cells.pos[held] += np.int32(by)
    cells.shift[held] += np.int32(by)
    if whole:
        cells.spans.shift_all(seq, by)
    else:
        cells.spans.stale.update(cells.holders(held))
    gone = held[cells.pos[held] < 0]
    if gone.size == 0:
        return -1
    if cells.n_shared:
        cells.free(gone)
    else:
        cells.empty(gone)
    return int(gone[0])


def divide_positions(cells: Cells, seq: int, p0: int, p1: int | None, by: int, sign: int) -> None:
    """Divide the positions of ``seq``'s cells in the range by ``by`` > 0, for all sharers.

    The pending shift grows by ``sign`` times (new - old position).
    """
    held = cells.cells_of(seq, p0, p1)
    if held.size == 0:
        return
    cells.has_shift = True
    old = cells.pos[held]
    new = old // np.int32(by)
    cells.pos[held] = new
    cells.shift[held] += np.int32(sign) * (new - old)
    for owner in cells.holders(held):
        cells.spans.stale.add(owner)
        cells.has_changed(owner)


def copy_sequence(source: Cells, src: int, target: Cells, dst: int) -> None:
    """``target`` becomes what ``src`` holds in ``source``, as ``dst``, at the same cells."""
    target.clear()
    held = source.cells_of(src)
    if held.size == 0:
        return
    keys = (dst << OWNER_SHIFT) + source.pos[held].astype(np.int64)
    target.place(held, keys)
    target.dues.changed(held, keys)
    target.has_changed(dst)
    target.shift[held] = source.shift[held]
    target.has_shift = bool(target.shift[held].any())
    target.spans.stale.add(dst)
