"""Jenga (SOSP'25): memory wasted where every layer is given room for every token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvlab.reproduce.findings import Number, Reproduction
from sim.layers import AttentionSpec, LayerSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Memory wasted by one block table for layers that differ"
SOURCE = "Jenga, SOSP'25, section 3"
TARGET = "within 0.1 points, and within 0.5 points as the blocks of `paged` hold it"


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


WINDOWED = {
    # Waste (%), longest context, and the layers: window, how many have it, how many do not.
    "Ministral 8B": (56.25, 131072, (32768, 27, 9)),
    "Gemma 2": (25.0, 8192, (4096, 21, 21)),
}
MODELS = {"Ministral 8B": "ministral-8b", "Gemma 2": "gemma-2-9b"}
CHUNK = 2048
LENGTHS = tuple(1024 << i for i in range(8))
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
        *(
            Case(name, paper, tokens, _kept(_windowed(*layers), tokens))
            for name, (paper, tokens, layers) in WINDOWED.items()
        ),
    )


def waste_at(name: str, tokens: int) -> float:
    """Share (%) wasted by a windowed model at another length of the sequence."""
    return Case(name, 0.0, tokens, _kept(_windowed(*WINDOWED[name][2]), tokens)).waste


def held(name: str, model: str) -> float:
    """Share (%) that `paged` holds less with tables by kind of layer than with one for all.

    Of one sequence of the longest context, in blocks of 16 tokens, computed in chunks of 2,048.
    """
    from sim.budget import Budget
    from sim.model_files.lookup import model_of
    from sim.plugins import policy_of
    from sim.sequence import Sequence
    from workloads.request import Request

    tokens, spec = WINDOWED[name][1], model_of(model)
    budget = Budget(
        spec, bytes=2 * tokens * spec.token_bytes(), max_model_len=tokens, max_batched_tokens=CHUNK
    )
    holds = []
    for hybrid in (True, False):
        policy = policy_of("paged", budget, {"hybrid": hybrid, "prefix_cache": False})
        seq = Sequence(0, Request(0, 0.0, tokens - 1, 1))
        while seq.computed < tokens - 1:
            n = min(CHUNK, tokens - 1 - seq.computed)
            assert policy.allocate(seq, n)
            seq.computed += n
        seq.tokens = tokens
        assert policy.allocate(seq, 1)  # which gives back what the last chunk needed
        holds.append(policy.held_bytes(seq))
    return 100 * (1 - holds[0] / holds[1])


def reproduce(data: Path | None) -> Reproduction:
    """Tokens that layers need against tokens that they are given, and blocks that are held."""
    del data
    found = cases()
    return Reproduction(
        numbers=(
            *(
                Number(f"waste, {case.name}", case.paper, case.waste, "%", 0.1, digits=2)
                for case in found
            ),
            *(
                Number(
                    f"held in vain by blocks, {name}",
                    WINDOWED[name][0],
                    held(name, model),
                    "%",
                    0.5,
                    digits=2,
                )
                for name, model in MODELS.items()
            ),
        ),
        leaves_open=(
            "The share at other lengths: the windowed models waste nothing up to the length of "
            "their window. The figures are for sequences of the longest context.",
        ),
        curves={
            name: {
                "tokens": [n for n in LENGTHS if n <= longest],
                "waste": [waste_at(name, n) for n in LENGTHS if n <= longest],
            }
            for name, (_, longest, _) in WINDOWED.items()
        },
        notes=(
            "Each number follows from the layers alone: 32 layers over the text and 8 over the "
            f"image of {IMAGE:,} tokens beside {TEXT} of text; 27 of 36 layers with a window of "
            "32,768 in 131,072; half of the layers with a window of 4,096 in 8,192.",
            "Held in vain is what the policy `paged` holds more of one sequence of that length "
            "with one block table for all layers than with tables by kind of layer, in blocks of "
            "16 tokens.",
        ),
    )


def draw(found: Reproduction) -> Figure:
    """Waste of the windowed models against the length, with the published points."""
    from reports.plots.curves import Curve, Scale, figure_of_curves
    from reports.style import looks_of

    looks = looks_of(WINDOWED)
    curves = [
        Curve(name, curve["tokens"], curve["waste"], looks[name])
        for name, curve in found.curves.items()
    ]
    curves += [
        Curve(f"{name}, published", [longest], [paper], looks[name], joined=False)
        for name, (paper, longest, _) in WINDOWED.items()
    ]
    names = [f"{n // 1024}k" for n in LENGTHS]
    return figure_of_curves(
        curves,
        Scale("length of the sequence (tokens)", "log2", LENGTHS, names),
        Scale("memory wasted (%)"),
        size=(7.0, 2.8),
    )
