"""What a cache must know of the model: layers, row widths, window. No weights, no names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.llamacpp.window import UNBOUNDED, Window

MemoryKind = Literal["kv", "iswa", "rs", "hybrid", "hybrid_iswa"]


@dataclass(frozen=True, slots=True)
class AttentionGeometry:
    """One attention cache: ``layers`` that store rows of ``k_width`` and ``v_width`` elements.

    k_width, v_width: elements per cell and layer (KV heads x head size; GQA counted).
    head_dim: elements of one K head, which decides whether a quantised K can be shifted.
    rope: whether K rows carry a rotary position, so that a position shift must rotate them.
    """

    layers: int
    k_width: int
    v_width: int
    head_dim: int
    rope: bool = True


@dataclass(frozen=True, slots=True)
class RecurrentGeometry:
    """A recurrent state: per layer ``r_width`` + ``s_width`` float32 elements a sequence."""

    layers: int
    r_width: int
    s_width: int


@dataclass(frozen=True, slots=True)
class CacheGeometry:
    """Everything the caches of one model depend on.

    arch: the architecture's name; a whole-context state begins with it.
    full: layers with full attention. swa: layers with a window (``window`` says which).
    recurrent: layers with a state. At least one of the three is given. A model whose attention
    layers all have windows still gets a full cache, of no layers.
    n_ctx_train: the context that a request for ``n_ctx = 0`` gets.
    """

    arch: str
    full: AttentionGeometry | None = None
    swa: AttentionGeometry | None = None
    window: Window = UNBOUNDED
    recurrent: RecurrentGeometry | None = None
    n_ctx_train: int = 0

    def __post_init__(self) -> None:
        if self.full is None and self.swa is None and self.recurrent is None:
            raise ValueError(f"model {self.arch!r} has no layer that caches anything")
        if (self.swa is not None) != self.window.bounded:
            raise ValueError(f"model {self.arch!r}: a window and layers that use it go together")

    @property
    def kind(self) -> MemoryKind:
        """Which memory module the engine builds for this model."""
        if self.swa is not None:
            return "iswa" if self.recurrent is None else "hybrid_iswa"
        if self.full is not None:
            return "kv" if self.recurrent is None else "hybrid"
        return "rs"

    @property
    def base(self) -> AttentionGeometry:
        """The geometry of the full-attention cache: possibly one without layers."""
        if self.full is not None:
            return self.full
        if self.swa is None:
            raise ValueError(f"model {self.arch!r} has no attention layers")
        like = self.swa
        return AttentionGeometry(0, like.k_width, like.v_width, like.head_dim, like.rope)
