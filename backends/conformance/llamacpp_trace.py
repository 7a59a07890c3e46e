"""One recorded llama.cpp context, replayed operation by operation."""

from __future__ import annotations

from typing import Any

from backends.conformance.llamacpp_sizes import params_from
from backends.conformance.llamacpp_view import EventLog, cells_of, maps_of
from backends.conformance.recording import Record
from sim.llamacpp.batch import Refusal
from sim.llamacpp.context import Context
from sim.llamacpp.errors import EngineAborts, LlamaCppError
from sim.llamacpp.geometry import CacheGeometry
from sim.llamacpp.state import AttentionState, SavedState

#: What was compared, the engine's value and ours.
Difference = tuple[str, Any, Any]

#: The engine's words for a refused decode; the first that appears is the reason.
_REASONS = {
    "n_tokens == 0": Refusal.EMPTY,
    "invalid seq_id[": Refusal.SEQ_ID,
    "inconsistent sequence positions": Refusal.NOT_CONSECUTIVE,
    "positions are not continuous": Refusal.HOLE,
    "is coupled to": Refusal.DIVERGED,
    "positions are decreasing": Refusal.DECREASING,
    "sequential split is not supported": Refusal.COUPLED,
    "failed to find a memory slot": Refusal.NO_SLOT,
}


class Trace:
    """A context like the recorded one, with the slots that states were saved to."""

    def __init__(self, header: Record, geometry: CacheGeometry) -> None:
        self._header = header
        #: What the recorded library writes per stream with cells, beyond llama.cpp 0c1e57098.
        self._stream_bytes: int = header.get("state_stream_bytes", 0)
        self._context = Context(geometry, params_from(header["config"]))
        self._log = EventLog()
        self._context.observe(self._log)
        self._saved: dict[int, SavedState] = {}
        self._refusal: Refusal | None = None
        self._blob: Any = None

    # ---- what is compared

    def check_header(self) -> Difference | None:
        """Context sizes, caches and ``can_shift``."""
        context, sizes = self._context, self._context.sizes
        caches: Record = {
            name: {
                "cells": cache.size,
                "layers": cache.rows.geometry.layers,
                "n_seq_max": cache.n_seq_max,
                "n_stream": cache.n_stream,
            }
            for name, cache in context.attention.items()
        }
        recurrent = context.recurrent
        if recurrent is not None:
            attention = sum(cache["layers"] for cache in caches.values())
            # The engine logs a recurrent cache with the number of all layers of the model.
            layers = attention + recurrent.geometry.layers
            caches["rs"] = {"cells": recurrent.size, "layers": layers, "n_seq_max": sizes.n_seq_max}
        ours = {
            "kind": context.geometry.kind,
            "n_ctx": sizes.n_ctx,
            "n_ctx_seq": sizes.n_ctx_seq,
            "n_batch": sizes.n_batch,
            "n_ubatch": sizes.n_ubatch,
            "n_seq_max": sizes.n_seq_max,
            "single_stream": sizes.n_stream == 1,
            "caches": caches,
            "can_shift": context.can_shift(),
        }
        return _compare("header", {key: self._header[key] for key in ours}, ours)

    def check_observation(self, engine: Record) -> Difference | None:
        """What the recorder saw of the context, without changing it."""
        context = self._context
        seqs = range(self._header["n_seqs_observed"])
        ours: Record = {
            "pos": [list(context.seq_pos(seq)) for seq in seqs],
            "size": [context.state_seq_size(seq) + self._more_bytes_of(seq) for seq in seqs],
        }
        if "cells" in engine:
            ours["cells"] = cells_of(context.state_save())
        if "maps" in engine:
            maps = maps_of(context)
            ours["maps"] = {k: v if "skip" in v else maps.get(k) for k, v in engine["maps"].items()}
        return _compare("obs", engine, ours)

    def run(self, record: Record) -> Difference | None:
        """Carry out one recorded operation and compare everything recorded about it."""
        try:
            ret = self._perform(record)
        except LlamaCppError as error:
            self._log.take()
            return "ret", record["ret"], f"{type(error).__name__}: {error}"
        engine = {"ret": record["ret"], "ev": [e for e in record["ev"] if e["ev"] != "log"]}
        ours: Record = {"ret": ret, "ev": self._log.take()}
        if "blob" in record:
            engine["blob"], ours["blob"] = record["blob"], self._blob
        reason = _reason(record["ev"]) if record["op"] == "decode" else None
        if reason is not None:
            engine["refusal"] = reason.name
            ours["refusal"] = self._refusal.name if self._refusal is not None else None
        for key in engine:
            if engine[key] != ours[key]:
                return key, engine[key], ours[key]
        return self.check_observation(record["obs"])

    def run_fatal(self, operation: Record, abort: Record) -> Difference | None:
        """Carry out the operation that ended the engine: it has to be refused as such."""
        engine = f"signal {abort['signal']}: {abort['stderr'].strip()}"
        try:
            ret = self._perform(operation)
        except EngineAborts:
            return None
        return "end of the process", engine, f"returned {ret!r}"

    # ---- operations

    def _perform(self, op: Record) -> Any:
        return getattr(self, f"_do_{op['op']}")(op)

    def _do_decode(self, op: Record) -> int:
        result = self._context.decode([(tuple(seqs), pos, n) for seqs, pos, n in op["runs"]])
        self._refusal = result.refusal
        return result.ret

    def _do_seq_rm(self, op: Record) -> bool:
        return self._context.seq_rm(op["seq"], op["p0"], op["p1"])

    def _do_seq_cp(self, op: Record) -> None:
        self._context.seq_cp(op["src"], op["dst"], op["p0"], op["p1"])

    def _do_seq_keep(self, op: Record) -> None:
        self._context.seq_keep(op["seq"])

    def _do_seq_add(self, op: Record) -> None:
        self._context.seq_add(op["seq"], op["p0"], op["p1"], op["d"])

    def _do_seq_div(self, op: Record) -> None:
        self._context.seq_div(op["seq"], op["p0"], op["p1"], op["d"])

    def _do_clear(self, op: Record) -> None:
        self._context.clear()

    def _do_pos(self, op: Record) -> list[int]:
        return list(self._context.seq_pos(op["seq"]))

    def _do_can_shift(self, op: Record) -> bool:
        return self._context.can_shift()

    def _do_state_save(self, op: Record) -> int:
        saved = self._context.state_seq_save(op["seq"], partial=bool(op.get("flags")))
        self._saved[op["slot"]] = saved
        self._blob = cells_of(saved)
        return saved.nbytes + self._more_bytes(saved)

    def _do_state_load(self, op: Record) -> int:
        saved = self._saved[op["slot"]]
        read = self._context.state_seq_load(saved, op["seq"])
        return read and read + self._more_bytes(saved)

    def _do_state_save_all(self, op: Record) -> int:
        saved = self._saved[op["slot"]] = self._context.state_save()
        return saved.nbytes + self._more_bytes(saved)

    def _do_state_load_all(self, op: Record) -> int:
        saved = self._saved[op["slot"]]
        read = self._context.state_load(saved)
        return read and read + self._more_bytes(saved)

    # ---- state sizes of other libraries

    def _more_bytes(self, saved: SavedState) -> int:
        parts = [part for part in saved.parts if isinstance(part, AttentionState)]
        streams = sum(stream is not None for part in parts for stream in part.streams)
        return self._stream_bytes * streams

    def _more_bytes_of(self, seq: int) -> int:
        """The same of a sequence's state, which has cells in every cache where it has any."""
        caches = self._context.attention.values()
        return self._stream_bytes * sum(cache.seq_pos_max(seq) >= 0 for cache in caches)


def _compare(what: str, engine: Any, ours: Any) -> Difference | None:
    return None if engine == ours else (what, engine, ours)


def _reason(events: list[Record]) -> Refusal | None:
    """Why the engine's log says that a decode was refused."""
    for event in events:
        if event["ev"] == "log":
            for words, refusal in _REASONS.items():
                if words in event["msg"]:
                    return refusal
    return None
