"""Every count and index that `Cells` keeps, checked against the cells themselves."""

from __future__ import annotations

import numpy as np

from sim.llamacpp.cells import EMPTY, SHARED, Cells
from sim.llamacpp.dues import NEVER, Dues
from sim.llamacpp.errors import IntegrityError
from sim.llamacpp.sizes import MAX_SEQ
from sim.llamacpp.spans import Spans


def check_cells(cells: Cells) -> None:
    """Raise `IntegrityError`, naming every broken claim, unless all bookkeeping is right."""
    used, shared = cells.owner != EMPTY, cells.owner == SHARED
    sets = np.zeros((cells.size, 1), np.uint64) if cells.sets is None else cells.sets
    bits = np.unpackbits(sets.view(np.uint8), axis=1).sum(axis=1)
    top = int(np.flatnonzero(used)[-1]) + 1 if used.any() else 0
    claims = {
        "empty cells, and only they, have position -1": bool(((cells.pos >= 0) == used).all()),
        "used": cells.used == int(used.sum()),
        "n_shared": cells.n_shared == int(shared.sum()),
        "shared cells have two owners or more": bool((bits[shared] >= 2).all()),
        "other cells have no owner bits": not bits[~shared].any(),
        "shifts pend only where flagged": cells.has_shift or not cells.shift.any(),
        "empty cells have no shift": not cells.shift[~used].any(),
        "used_max_p1": cells.used_max_p1 == top,
    }
    truth = Spans()
    for seq in range(MAX_SEQ):
        held = cells.pos[cells.holding(seq)]
        if held.size:
            truth.take_from(seq, held)
    mine = cells.refresh()
    claims["count"] = bool((mine.counts() == truth.counts()).all())
    claims["lowest positions"] = bool((mine.low == truth.low).all())
    claims["highest positions"] = bool((mine.end == truth.end).all())
    claims["regular"] = truth.irregular.keys() <= mine.irregular.keys()
    known = [seq for seq in mine.end.nonzero()[0].tolist() if cells.whereabouts.knows(mine, seq)]
    claims["whereabouts"] = cells.n_shared > 0 or all(
        sorted(cells.all_of(seq).tolist()) == cells.cells_of(seq).tolist() for seq in known
    )
    dues = Dues(cells.size, cells.dues.window)
    dues.find(cells.held, mine.end)
    if cells.dues.is_known:
        # When the past was does not matter, nor how far off never is.
        left = [np.clip(each.moment - each.clock, 0, NEVER // 2) for each in (dues, cells.dues)]
        claims["dues"] = bool((left[0] == left[1]).all())
    broken = [claim for claim, holds in claims.items() if not holds]
    if broken:
        raise IntegrityError(f"cells: {'; '.join(broken)}")
