"""Geometry of the tiny models that llama.cpp recordings are made with."""

from __future__ import annotations

from typing import Any

from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry, RecurrentGeometry
from sim.llamacpp.window import UNBOUNDED, Window


def _attention(
    layers: int, width: int = 128, head: int = 64, rope: bool = True
) -> AttentionGeometry:
    return AttentionGeometry(layers, width, width, head, rope)


_STANDARD_16 = Window("standard", 16)
_SHORTCONV = RecurrentGeometry(layers=2, r_width=256, s_width=0)
_MAMBA = RecurrentGeometry(layers=2, r_width=768, s_width=2048)

#: name in the recordings' headers -> what its caches look like
TINY_MODELS: dict[str, CacheGeometry] = {
    "llama": CacheGeometry("llama", full=_attention(2)),
    "gemma2": CacheGeometry("gemma2", _attention(2), _attention(2), _STANDARD_16),
    "gemma2all": CacheGeometry("gemma2", None, _attention(3), _STANDARD_16),
    "gemma3": CacheGeometry("gemma3", _attention(1), _attention(5), Window("standard", 32)),
    "llama4": CacheGeometry("llama4", _attention(1), _attention(3), Window("chunked", 8192)),
    "mamba": CacheGeometry("mamba", recurrent=_MAMBA),
    "jamba": CacheGeometry("jamba", _attention(2, 64, 64, rope=False), recurrent=_MAMBA),
    "lfm2": CacheGeometry("lfm2", _attention(2, 64, 32), recurrent=_SHORTCONV),
    "lfm2swa": CacheGeometry("lfm2", None, _attention(2, 64, 32), _STANDARD_16, _SHORTCONV),
}


def geometry_of(header: dict[str, Any]) -> CacheGeometry:
    """The geometry that a recording's header names, or spells out under ``geometry``.

    Raises ValueError for a model that is not known, and KeyError, TypeError or ValueError for a
    geometry that is not spelled out in full.
    """
    spelled = header.get("geometry")
    if spelled is not None:
        return geometry_from(spelled)
    known = TINY_MODELS.get(header["model"])
    if known is None:
        raise ValueError(f"model {header['model']!r} is not known, and no 'geometry' is given")
    return known


def geometry_from(spelled: dict[str, Any]) -> CacheGeometry:
    """A `CacheGeometry` from its JSON form (see `geometry_as_json`)."""
    full, swa, recurrent = (spelled.get(part) for part in ("full", "swa", "recurrent"))
    return CacheGeometry(
        spelled["arch"],
        full=None if full is None else AttentionGeometry(**full),
        swa=None if swa is None else AttentionGeometry(**swa),
        window=Window(*spelled["window"]) if spelled.get("window") else UNBOUNDED,
        recurrent=None if recurrent is None else RecurrentGeometry(**recurrent),
    )


def geometry_as_json(geometry: CacheGeometry) -> dict[str, Any]:
    """What a recorder writes into a header so that any model's recording can be replayed."""

    def fields(part: AttentionGeometry | RecurrentGeometry | None) -> dict[str, Any] | None:
        return None if part is None else {name: getattr(part, name) for name in part.__slots__}

    return {
        "arch": geometry.arch,
        "full": fields(geometry.full),
        "swa": fields(geometry.swa),
        "window": [geometry.window.kind, geometry.window.n] if geometry.window.bounded else None,
        "recurrent": fields(geometry.recurrent),
    }
