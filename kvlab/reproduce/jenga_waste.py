"""Jenga (SOSP'25): memory wasted where every layer is given room for every token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvlab.reproduce.findings import Number, Reproduction
from sim.layers import AttentionSpec, LayerSpec

TITLE = "Memory wasted by one block table for layers that differ"
SOURCE = "Jenga, SOSP'25, section 3"
TARGET = "within 0.1 points"


@dataclass(frozen=True)
class Case:
    """A model, and how many tokens each of its kinds of layer has to keep.

    layers: (number of layers, tokens that each of them needs) of each kind. tokens: those of the
    sequence, which is what a single block table gives to every layer.
    """

    name: str
    paper: float
    tokens: int
    layers: tuple[tuple[int, int], ...]

    @property
    def waste(self) -> float:
        """Share (%) of the K/V memory of the sequence that no layer will read again."""
        given = self.tokens * sum(count for count, _ in self.layers)
        needed = sum(count * tokens for count, tokens in self.layers)
        return 100 * (1 - needed / given)


IMAGE, TEXT = 6193, 43
"""Mean tokens of an image and of its text in MMMU-pro, as Jenga states them."""


def _windowed(window: int, windowed: int, full: int) -> tuple[LayerSpec, ...]:
    """Layers of one geometry, ``windowed`` of them with a sliding window."""
    kinds = {"full": full, "swa": windowed}
    return tuple(
        LayerSpec(
            attention=AttentionSpec(
                heads=8,
                kv_heads=8,
                head_dim_k=128,
                head_dim_v=128,
                kind=kind,
                window=window if kind == "swa" else None,
            )
        )
        for kind, count in kinds.items()
        for _ in range(count)
    )


def _kept(layers: tuple[LayerSpec, ...], tokens: int) -> tuple[tuple[int, int], ...]:
    """Layers of each kind, and the tokens that the last one of a sequence attends to in them."""
    from sim.groups import grouped
    from sim.reads import attended

    return tuple((group.layers, attended(group, tokens - 1)) for group in grouped(layers))


def cases() -> tuple[Case, ...]:
    """The three models of the paper, from their layers."""
    return (
        Case("Llama 3.2 11B Vision", 79.6, IMAGE + TEXT, ((32, TEXT), (8, IMAGE))),
        Case("Ministral 8B", 56.25, 131072, _kept(_windowed(32768, 27, 9), 131072)),
        Case("Gemma 2", 25.0, 8192, _kept(_windowed(4096, 21, 21), 8192)),
    )


def reproduce(data: Path | None) -> Reproduction:
    """Tokens that layers need against tokens that they are given."""
    del data
    found = cases()
    return Reproduction(
        numbers=tuple(
            Number(f"waste, {case.name}", case.paper, case.waste, "%", 0.1, digits=2)
            for case in found
        ),
        leaves_open=(
            "The share at other lengths: the windowed models waste nothing up to the length of "
            "their window. The figures are for sequences of the longest context.",
        ),
        notes=(
            "Each number follows from the layers alone: 32 layers over the text and 8 over the "
            f"image of {IMAGE:,} tokens beside {TEXT} of text; 27 of 36 layers with a window of "
            "32,768 in 131,072; half of the layers with a window of 4,096 in 8,192.",
        ),
    )
