"""llama.cpp's C API by ctypes: which library, which functions, what is passed to them."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from ctypes import POINTER, c_bool, c_char_p, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path

from workloads.errors import InputError

INSTALL = "pip install 'kvlab[conformance]'"


class Batch(ctypes.Structure):
    """``llama_batch`` (include/llama.h)."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


class Opaque(ctypes.Structure):
    """Room for a parameter struct of unknown size, passed and returned by value.

    On the ABIs that the wheel is built for, such a struct travels in memory: room at its end that
    the library knows nothing of does no harm.
    """

    _fields_ = (("bytes", ctypes.c_ubyte * 512),)


#: ``ggml_log_callback``: level, text, user data.
LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [LogCallback, c_void_p]),
    "llama_model_default_params": (Opaque, []),
    "llama_context_default_params": (Opaque, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, Opaque]),
    "llama_model_free": (None, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, Opaque]),
    "llama_free": (None, [c_void_p]),
    "llama_set_n_threads": (None, [c_void_p, c_int32, c_int32]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_n_ctx": (c_uint32, [c_void_p]),
    "llama_n_ctx_seq": (c_uint32, [c_void_p]),
    "llama_n_batch": (c_uint32, [c_void_p]),
    "llama_n_ubatch": (c_uint32, [c_void_p]),
    "llama_n_seq_max": (c_uint32, [c_void_p]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_memory_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_memory_seq_keep": (None, [c_void_p, c_int32]),
    "llama_memory_seq_add": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_memory_seq_div": (None, [c_void_p, c_int32, c_int32, c_int32, ctypes.c_int]),
    "llama_memory_seq_pos_min": (c_int32, [c_void_p, c_int32]),
    "llama_memory_seq_pos_max": (c_int32, [c_void_p, c_int32]),
    "llama_memory_can_shift": (c_bool, [c_void_p]),
    "llama_state_get_size": (c_size_t, [c_void_p]),
    "llama_state_get_data": (c_size_t, [c_void_p, c_void_p, c_size_t]),
    "llama_state_set_data": (c_size_t, [c_void_p, c_char_p, c_size_t]),
    "llama_state_seq_get_size_ext": (c_size_t, [c_void_p, c_int32, c_uint32]),
    "llama_state_seq_get_data_ext": (c_size_t, [c_void_p, c_void_p, c_size_t, c_int32, c_uint32]),
    "llama_state_seq_set_data_ext": (c_size_t, [c_void_p, c_char_p, c_size_t, c_int32, c_uint32]),
    "llama_version": (c_char_p, []),
}


def find_library() -> Path:
    """The library in the wheel ``xllamacpp``. Raises `InputError` where it is not installed."""
    spec = importlib.util.find_spec("xllamacpp")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for found in sorted(Path(folder).glob("xllamacpp*.so")):
            return found
    raise InputError(f"recording llama.cpp needs the package xllamacpp: {INSTALL}")


def load_library(path: Path) -> ctypes.CDLL:
    """Load llama.cpp from a shared library and declare the functions that are used.

    Raises `InputError` if it cannot be loaded or lacks one of them.
    """
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except OSError as error:
        raise InputError(f"{path}: cannot be loaded ({error})") from error
    except AttributeError as error:
        raise InputError(f"{path}: not llama.cpp as this recorder knows it ({error})") from error
    library.llama_backend_init()
    return library


def name_of(library: ctypes.CDLL, path: Path) -> str:
    """What a recording says it was made with: package and version, llama.cpp's own version."""
    if path.parent.name == "xllamacpp":
        made_by = f"xllamacpp {importlib.metadata.version('xllamacpp')}"
    else:
        made_by = path.name
    return f"{made_by} (llama.cpp {library.llama_version().decode()})"
