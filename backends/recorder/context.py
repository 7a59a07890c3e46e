"""One live llama.cpp context: the calls that a recording is made of."""

from __future__ import annotations

import ctypes
import re
from ctypes import POINTER, c_int8, c_int32
from pathlib import Path
from typing import Any

from backends.recorder.blob import SEQ_HEADER
from backends.recorder.library import Batch
from backends.recorder.log import INFO, Log
from backends.recorder.params import context_params
from workloads.errors import InputError

#: ``LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY``.
PARTIAL_ONLY = 1
#: Tokens are 4 + pos % 50: any that the tiny vocabularies have.
FIRST_TOKEN, TOKENS = 4, 50

Config = dict[str, Any]

_ATTENTION = re.compile(
    r"llama_kv_cache: size = .*\( *(\d+) cells, +(\d+) layers, +(\d+)/(\d+) seqs"
)
_RECURRENT = re.compile(r"llama_memory_recurrent: size = .*\( *(\d+) cells, +(\d+) layers, +(\d+) ")
_SIZES = re.compile(r"llama_(context|kv_cache|kv_cache_iswa|memory_recurrent): .*(=|<)")


class LiveModel:
    """A model file, loaded. Raises `InputError` if llama.cpp refuses it."""

    def __init__(self, library: ctypes.CDLL, log: Log, path: Path) -> None:
        params = library.llama_model_default_params()
        self.library, self.log = library, log
        self.handle = library.llama_model_load_from_file(str(path).encode(), params)
        messages = log.take()
        if not self.handle:
            why = messages[-1].text.strip() if messages else "no reason given"
            raise InputError(f"{path}: llama.cpp cannot load this model ({why})")

    def close(self) -> None:
        """Free it; its contexts have to be closed before."""
        self.library.llama_model_free(self.handle)


class LiveContext:
    """A context of a model, its calls by their recorded names, and what it reports of itself.

    caches: name -> sizes, as logged. Raises `InputError` if llama.cpp does not make the context.
    """

    def __init__(self, model: LiveModel, config: Config) -> None:
        self._library, self.log = model.library, model.log
        params = context_params(self._library.llama_context_default_params(), config)
        self._handle = self._library.llama_init_from_model(model.handle, params)
        messages = self.log.take()
        if not self._handle:
            why = messages[-1].text.strip() if messages else "no reason given"
            raise InputError(f"llama.cpp makes no context of {config} ({why})")
        self._library.llama_set_n_threads(self._handle, 1, 1)
        self._memory = self._library.llama_get_memory(self._handle)
        lines = [m.text.strip() for m in messages if m.level >= INFO]
        self.size_lines = [line for line in lines if _SIZES.match(line)]
        self.caches = _caches_in(self.size_lines)

    def close(self) -> None:
        """Free it."""
        self._library.llama_free(self._handle)

    def sizes(self) -> dict[str, int]:
        """Context sizes as the context reports them."""
        names = ("n_ctx", "n_ctx_seq", "n_batch", "n_ubatch", "n_seq_max")
        return {name: getattr(self._library, f"llama_{name}")(self._handle) for name in names}

    # ---- calls, as recordings name them

    def decode(self, runs: list[Any]) -> int:
        """``llama_decode`` of runs ``[[seq ids], first position, n]``."""
        n = sum(count for _, _, count in runs)
        token, pos, n_seq_id = (c_int32 * n)(), (c_int32 * n)(), (c_int32 * n)()
        seq_id, logits = (POINTER(c_int32) * n)(), (c_int8 * n)()
        last: dict[tuple[int, ...], int] = {}
        i = 0
        for seqs, first, count in runs:
            ids = (c_int32 * len(seqs))(*seqs)
            for at in range(first, first + count):
                token[i], pos[i], n_seq_id[i] = FIRST_TOKEN + at % TOKENS, at, len(seqs)
                seq_id[i] = ids
                last[tuple(seqs)] = i
                i += 1
        for index in last.values():
            logits[index] = 1
        batch = Batch(n, token, None, pos, n_seq_id, seq_id, logits)
        return int(self._library.llama_decode(self._handle, batch))

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """``llama_memory_seq_rm``."""
        return bool(self._library.llama_memory_seq_rm(self._memory, seq, p0, p1))

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """``llama_memory_seq_cp``."""
        self._library.llama_memory_seq_cp(self._memory, src, dst, p0, p1)

    def seq_keep(self, seq: int) -> None:
        """``llama_memory_seq_keep``."""
        self._library.llama_memory_seq_keep(self._memory, seq)

    def seq_add(self, seq: int, p0: int, p1: int, d: int) -> None:
        """``llama_memory_seq_add``."""
        self._library.llama_memory_seq_add(self._memory, seq, p0, p1, d)

    def seq_div(self, seq: int, p0: int, p1: int, d: int) -> None:
        """``llama_memory_seq_div``."""
        self._library.llama_memory_seq_div(self._memory, seq, p0, p1, d)

    def clear(self, data: bool) -> None:
        """``llama_memory_clear``."""
        self._library.llama_memory_clear(self._memory, data)

    def pos(self, seq: int) -> list[int]:
        """``llama_memory_seq_pos_min`` and ``_max``."""
        lowest = self._library.llama_memory_seq_pos_min(self._memory, seq)
        return [lowest, self._library.llama_memory_seq_pos_max(self._memory, seq)]

    def can_shift(self) -> bool:
        """``llama_memory_can_shift``."""
        return bool(self._library.llama_memory_can_shift(self._memory))

    # ---- state

    def seq_size(self, seq: int, flags: int = 0) -> int:
        """``llama_state_seq_get_size_ext``."""
        return int(self._library.llama_state_seq_get_size_ext(self._handle, seq, flags))

    def seq_state(self, seq: int, flags: int = 0) -> bytes:
        """``llama_state_seq_get_data_ext``."""
        room = ctypes.create_string_buffer(self.seq_size(seq, flags))
        written = self._library.llama_state_seq_get_data_ext(
            self._handle, room, len(room), seq, flags
        )
        return room.raw[:written]

    def restore_seq(self, data: bytes, seq: int, flags: int = 0) -> int:
        """``llama_state_seq_set_data_ext``."""
        function = self._library.llama_state_seq_set_data_ext
        return int(function(self._handle, data, len(data), seq, flags))

    def state(self) -> bytes:
        """``llama_state_get_data``."""
        room = ctypes.create_string_buffer(self._library.llama_state_get_size(self._handle))
        written = self._library.llama_state_get_data(self._handle, room, len(room))
        return room.raw[:written]

    def restore(self, data: bytes) -> int:
        """``llama_state_set_data``."""
        return int(self._library.llama_state_set_data(self._handle, data, len(data)))

    def seq_header(self) -> bytes:
        """What every state of a sequence begins with."""
        return self.seq_state(0)[:SEQ_HEADER]


def _caches_in(lines: list[str]) -> dict[str, dict[str, int]]:
    """The caches by name, from the lines in which they report their sizes."""
    attention = [list(map(int, found.groups())) for x in lines if (found := _ATTENTION.match(x))]
    recurrent = [list(map(int, found.groups())) for x in lines if (found := _RECURRENT.match(x))]
    names = ["kv"] if len(attention) == 1 else ["base", "swa"][: len(attention)]
    caches = {
        name: dict(zip(("cells", "layers", "n_seq_max", "n_stream"), sizes, strict=True))
        for name, sizes in zip(names, attention, strict=True)
    }
    for sizes in recurrent:
        caches["rs"] = dict(zip(("cells", "layers", "n_seq_max"), sizes, strict=True))
    return caches
