"""One recorded trace: its header, what was there at first, every operation, the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from backends.conformance.llamacpp_models import TINY_MODELS
from backends.conformance.recording import Record
from backends.recorder.context import Config, LiveContext, LiveModel
from backends.recorder.observe import Observer

#: Arguments of every operation, in the order in which the calls take them.
ARGUMENTS = {
    "decode": ("runs",),
    "seq_rm": ("seq", "p0", "p1"),
    "seq_cp": ("src", "dst", "p0", "p1"),
    "seq_keep": ("seq",),
    "seq_add": ("seq", "p0", "p1", "d"),
    "seq_div": ("seq", "p0", "p1", "d"),
    "clear": ("data",),
    "pos": ("seq",),
    "can_shift": (),
    "state_save": ("seq", "slot"),
    "state_load": ("slot", "seq"),
    "state_save_all": ("slot",),
    "state_load_all": ("slot",),
}


class Source(Protocol):
    """Where the operations come from."""

    def next(self, positions: list[list[int]]) -> Record | None:
        """The next operation; None at the end. positions: of every sequence, as just observed."""
        ...


class Recorder:
    """Carries out operations on a live context and writes down what happens.

    config: as `draw_config` makes it. origin: further fields of the header (library, seed).
    """

    def __init__(self, model: LiveModel, name: str, config: Config, origin: Record) -> None:
        self._geometry = TINY_MODELS[name]
        self._config = config
        n_seqs = config["n_seq_max"] + config["extra_seqs"]
        self._layout_of(model, n_seqs)
        self._context = LiveContext(model, config)
        self._observer = Observer(self._context, n_seqs, self._geometry.window)
        self._observer.stream_bytes = self._stream_bytes
        self._header = self._make_header(name, n_seqs) | origin
        self._saved: dict[int, bytes] = {}

    def records(self, source: Source) -> Iterator[Record]:
        """All records; before an operation is carried out, what it will be (type ``pending``)."""
        yield self._header
        seen = self._observe()
        yield {"type": "init", "obs": seen}
        index = 0
        while (asked := source.next(seen["pos"])) is not None:
            operation = {"i": index} | asked
            yield {"type": "pending", "pending": operation}
            record: Record = {"type": "op", **operation, **self._perform(asked)}
            seen = record["obs"] = self._observe()
            yield record
            index += 1
        yield {"type": "end", "status": "ok", "ops": index}

    def close(self) -> None:
        """Free the context."""
        self._context.close()

    # ---- parts of it

    def _layout_of(self, model: LiveModel, n_seqs: int) -> None:
        """Find out the layout of states on a context that is not recorded."""
        context = LiveContext(model, self._config)
        try:
            context.decode([[[0], 0, 1]])
            observer = Observer(context, n_seqs, self._geometry.window)
            observer.learn_layout()
            self._stream_bytes = observer.stream_bytes
        finally:
            context.close()

    def _make_header(self, name: str, n_seqs: int) -> Record:
        geometry, context = self._geometry, self._context
        window = geometry.window
        return {
            "type": "header",
            "fmt": 1,
            "model": name,
            "kind": _KINDS[tuple(context.caches)],
            "swa": [window.kind, window.n] if window.bounded else None,
            "config": self._config,
            **context.sizes(),
            "n_seqs_observed": n_seqs,
            "single_stream": self._config["kv_unified"] or self._config["n_seq_max"] == 1,
            "caches": context.caches,
            "can_shift": context.can_shift(),
            "state_stream_bytes": self._stream_bytes,
            "log": context.size_lines,
        }

    def _observe(self) -> Record:
        config = self._config
        # Writing a whole state with rolled-back recurrent cells can end the process.
        with_cells = config["n_rs_seq"] == 0 and not config["bare"]
        return self._observer.observe(with_cells, with_maps=config["peek"])

    def _perform(self, asked: Record) -> Record:
        context = self._context
        context.log.take()
        ret, more = self._call(asked)
        return {"ret": ret} | more | {"ev": self._observer.events(context.log.take())}

    def _call(self, asked: Record) -> tuple[Any, Record]:
        """The call's result, and what else is recorded of it."""
        context, name, flags = self._context, asked["op"], asked.get("flags", 0)
        if name == "state_save":
            data = self._saved[asked["slot"]] = context.seq_state(asked["seq"], flags)
            return len(data), {} if flags else {"blob": self._observer.saved_cells(data)}
        if name == "state_load":
            return context.restore_seq(self._saved[asked["slot"]], asked["seq"], flags), {}
        if name == "state_save_all":
            data = self._saved[asked["slot"]] = context.state()
            return len(data), {}
        if name == "state_load_all":
            return context.restore(self._saved[asked["slot"]]), {}
        return getattr(context, name)(*(asked[key] for key in ARGUMENTS[name])), {}


_KINDS = {
    ("kv",): "kv",
    ("base", "swa"): "iswa",
    ("rs",): "rs",
    ("kv", "rs"): "hybrid",
    ("base", "swa", "rs"): "hybrid_iswa",
}
