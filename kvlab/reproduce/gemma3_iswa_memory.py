"""Gemma 3's memory at 32k tokens, with caches as large as the windows and without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kvlab.reproduce.findings import Number, Reproduction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Window-sized caches of Gemma 3 27B at 32,768 tokens"
SOURCE = "llama.cpp, what it reports for the model (one sequence, ubatch 512, f16)"
TARGET = "equal"

CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)


def reproduce(data: Path | None) -> Reproduction:
    """Size both kinds of cache over contexts, for the models of the family."""
    del data
    from sim.memory import memory_report
    from sim.model_files.lookup import model_of

    def mib(name: str, context: int, swa_full: bool) -> float:
        return memory_report(model_of(name), context, swa_full=swa_full).bytes / 2**20

    curves = {
        name: {
            "context": list(CONTEXTS),
            "windowed_mib": [mib(name, context, False) for context in CONTEXTS],
            "full_mib": [mib(name, context, True) for context in CONTEXTS],
        }
        for name in ("gemma-3-4b", "gemma-3-12b", "gemma-3-27b")
    }
    windowed, full = mib("gemma-3-27b", 32768, False), mib("gemma-3-27b", 32768, True)
    return Reproduction(
        numbers=(
            Number("window-sized caches", 3184, windowed, "MiB", 0, digits=0),
            Number("all layers in full", 15872, full, "MiB", 0, digits=0),
            Number("share saved", None, 100 * (1 - windowed / full), "%"),
        ),
        leaves_open=("How much prefix reuse the window-sized cache gives up for this.",),
        curves=curves,
    )


def draw(found: Reproduction) -> Figure:
    """Memory against context, a pair of lines a model."""
    from reports.plots.curves import Curve, Scale, dashed, figure_of_curves
    from reports.style import DASHED, SOLID, looks_of

    looks = looks_of(found.curves)
    curves = [
        Curve(
            f"{name}, {words}",
            curve["context"],
            [value / 1024 for value in curve[column]],
            dashed(looks[name], dash),
        )
        for name, curve in found.curves.items()
        for column, dash, words in (
            ("full_mib", SOLID, "all layers in full"),
            ("windowed_mib", DASHED, "window-sized"),
        )
    ]
    names = [f"{context // 1024}k" for context in CONTEXTS]
    return figure_of_curves(
        curves,
        Scale("context (tokens)", "log2", CONTEXTS, names),
        Scale("KV cache (GiB)", "log2"),
    )
