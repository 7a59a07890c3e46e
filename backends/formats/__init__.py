"""How K and V elements are kept in memory: real bit patterns, written and read through ``xp``."""

from __future__ import annotations

from backends.formats.base import Format
from backends.formats.plain import BF16, F16, F32, FP8
from backends.formats.quantized import Q4, Q8
from workloads.errors import InputError
from workloads.registry import suggestion_for

FORMATS: dict[str, Format] = {each.name: each for each in (F32(), F16(), BF16(), FP8(), Q8(), Q4())}


def format_of(name: str) -> Format:
    """The format of a cache type; `InputError` for a type that is only simulated."""
    found = FORMATS.get(name.lower())
    if found is None:
        raise InputError(f"KV type {name!r} cannot be stored; {suggestion_for(name, FORMATS)}")
    return found
