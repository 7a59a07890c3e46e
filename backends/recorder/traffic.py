"""Random operations on a live context, drawn from a seed and from where its sequences are."""

from __future__ import annotations

from random import Random
from typing import Any

from backends.recorder.batches import Batches, Positions
from backends.recorder.configs import can_move_positions
from backends.recorder.context import PARTIAL_ONLY
from sim.llamacpp.geometry import CacheGeometry

Operation = dict[str, Any]

#: How often each operation is drawn, by profile.
_WEIGHTS = {
    "mixed": {
        "decode": 55.0,
        "seq_rm": 16,
        "seq_cp": 8,
        "seq_add": 8,
        "seq_div": 1.5,
        "seq_keep": 1,
        "clear": 0.7,
        "pos": 0.5,
        "can_shift": 0.3,
        "state_save": 4,
        "state_load": 3,
        "state_save_all": 1.2,
        "state_load_all": 1,
    },
    "fill": {
        "decode": 72.0,
        "seq_rm": 15,
        "seq_cp": 4,
        "seq_add": 3,
        "seq_div": 0.5,
        "seq_keep": 0.3,
        "clear": 0.2,
        "state_save": 2,
        "state_load": 3,
    },
}
_SLOTS = 4
#: Positions are printed in five columns: sequences that come near the end are not moved further.
_HIGHEST = 60_000
#: ``p0, p1`` that mean everything where only everything is allowed.
_EVERYTHING = ((-1, -1), (0, -1), (0, 0))


class RandomTraffic:
    """A `Source` of ``n_ops`` random operations and, at the end, one token for every sequence.

    Calls that end the process are not drawn. The last tokens show the cells of every stream.
    """

    def __init__(
        self, rng: Random, geometry: CacheGeometry, config: dict[str, Any], n_ops: int
    ) -> None:
        self._rng = rng
        self._n_seq_max: int = config["n_seq_max"]
        self._n_seqs = self._n_seq_max + config["extra_seqs"]
        self._one_stream = config["kv_unified"] or self._n_seq_max == 1
        self._left = n_ops
        # Libraries differ in how a shared recurrent cell is rolled back.
        can_share = config["n_rs_seq"] == 0
        self._batches = Batches(rng, config, can_share)
        self._closing = list(range(self._n_seq_max))
        self._saved: dict[int, tuple[str, int]] = {}
        weights = dict(_WEIGHTS[config["profile"]])
        if not can_move_positions(geometry, config):
            del weights["seq_add"], weights["seq_div"]
        if not can_share:
            # Whole states with rolled-back cells can end the process, too.
            for name in ("seq_cp", "state_save_all", "state_load_all"):
                weights.pop(name, None)
        self._weights = weights
        self._any_range = self._one_stream or geometry.kind == "rs"

    def next(self, positions: Positions) -> Operation | None:
        """See `backends.recorder.trace.Source`."""
        if self._left == 0:
            if not self._closing:
                return None
            seq = self._closing.pop(0)
            return {"op": "decode", "runs": self._batches.closing(seq, positions)}
        self._left -= 1
        name = self._rng.choices(list(self._weights), list(self._weights.values()))[0]
        operation = getattr(self, f"_{name}")(positions)
        return operation or {"op": "decode", "runs": self._batches.draw(positions)}

    # ---- one operation each; None where there is nothing to do it to

    def _decode(self, positions: Positions) -> Operation:
        return {"op": "decode", "runs": self._batches.draw(positions)}

    def _seq_rm(self, positions: Positions) -> Operation:
        seq = -1 if self._rng.random() < 0.04 else self._seq(positions)
        p0, p1 = self._range(positions, max(seq, 0))
        return {"op": "seq_rm", "seq": seq, "p0": p0, "p1": p1}

    def _seq_cp(self, positions: Positions) -> Operation:
        src, dst = self._seq(positions), self._rng.randrange(self._n_seqs)
        p0, p1 = (-1, -1)
        if self._any_range and self._rng.random() < 0.6:
            p0, p1 = self._range(positions, src)
        elif not self._one_stream:
            p0, p1 = self._rng.choice(_EVERYTHING)
        return {"op": "seq_cp", "src": src, "dst": dst, "p0": p0, "p1": p1}

    def _seq_keep(self, positions: Positions) -> Operation:
        return {"op": "seq_keep", "seq": self._seq(positions)}

    def _seq_add(self, positions: Positions) -> Operation | None:
        seq = self._seq(positions)
        if positions[seq][1] > _HIGHEST:
            return None
        p0, p1 = self._range(positions, seq)
        d = self._rng.choice((-1, 1, 0, -8, 5, -self._rng.randint(1, 60), self._rng.randint(1, 30)))
        return {"op": "seq_add", "seq": seq, "p0": p0, "p1": p1, "d": d}

    def _seq_div(self, positions: Positions) -> Operation:
        seq = self._seq(positions)
        p0, p1 = self._range(positions, seq)
        return {"op": "seq_div", "seq": seq, "p0": p0, "p1": p1, "d": self._rng.randint(1, 4)}

    def _clear(self, positions: Positions) -> Operation:
        return {"op": "clear", "data": self._rng.random() < 0.5}

    def _pos(self, positions: Positions) -> Operation:
        return {"op": "pos", "seq": self._seq(positions)}

    def _can_shift(self, positions: Positions) -> Operation:
        return {"op": "can_shift"}

    def _state_save(self, positions: Positions) -> Operation:
        flags = PARTIAL_ONLY if self._rng.random() < 0.2 else 0
        slot = self._rng.randrange(_SLOTS)
        self._saved[slot] = ("one", flags)
        operation = {"op": "state_save", "seq": self._seq(positions), "slot": slot}
        return operation | ({"flags": flags} if flags else {})

    def _state_load(self, positions: Positions) -> Operation | None:
        slots = [slot for slot, (what, _) in self._saved.items() if what == "one"]
        if not slots:
            return None
        slot, seq = self._rng.choice(slots), self._rng.randrange(self._n_seq_max)
        flags = self._saved[slot][1]
        return {"op": "state_load", "slot": slot, "seq": seq} | ({"flags": flags} if flags else {})

    def _state_save_all(self, positions: Positions) -> Operation:
        slot = self._rng.randrange(_SLOTS)
        self._saved[slot] = ("all", 0)
        return {"op": "state_save_all", "slot": slot}

    def _state_load_all(self, positions: Positions) -> Operation | None:
        slots = [slot for slot, (what, _) in self._saved.items() if what == "all"]
        return {"op": "state_load_all", "slot": self._rng.choice(slots)} if slots else None

    # ---- what to do it to

    def _seq(self, positions: Positions) -> int:
        """A sequence, mostly one that is there."""
        live = [seq for seq in range(self._n_seqs) if positions[seq][1] >= 0]
        if live and self._rng.random() < 0.93:
            return self._rng.choice(live)
        return self._rng.randrange(self._n_seqs)

    def _range(self, positions: Positions, seq: int) -> tuple[int, int]:
        """Positions ``[p0, p1)``: all, a tail, a head, a piece, none or some that are not there."""
        rng, (lowest, highest) = self._rng, positions[seq]
        if highest < lowest or highest < 0:
            return rng.choice(((-1, -1), (0, -1), (3, 8)))
        low, high = max(0, lowest), highest + 1
        p, q = sorted((rng.randint(low, high), rng.randint(low, high)))
        ranges = {
            (-1, -1): 2,
            (0, -1): 1,
            (p, -1): 5,
            (max(low, high - rng.randint(1, 4)), -1): 3,
            (-1, p): 2,
            (0, q): 2,
            (p, q): 6,
            (p, p): 0.5,
            (q, p): 0.5,
            (high + 5, high + 9): 0.5,
        }
        return rng.choices(list(ranges), list(ranges.values()))[0]
