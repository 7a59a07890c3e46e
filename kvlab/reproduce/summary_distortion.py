"""What the `summary` policy does to attention, beside a plain window and attention sinks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kvlab.reproduce.findings import Claim, Number, Reproduction, Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from backends.arrays import Backend
    from backends.summary import Atoms

TITLE = "Distortion of a recent window with a Wasserstein summary (lossy), against the budget"
SOURCE = (
    "The fixed-budget reading of a source document (recent tokens and a compressed summary chosen "
    "by Wasserstein distance), which gives no numbers"
)
TARGET = (
    "nothing is lost where the budget holds every token; error and distance fall with the budget; "
    "with keys in clusters the distance is smaller than those of a window and of sinks at every "
    "budget, the error from 64 cells on (at 32 there are 9 centroids for 24 topics)"
)

Floats = NDArray[np.float64]
TOKENS = 1024
BUDGETS = (32, 64, 128, 256, 512)
SINKS = 4
HEADS, KV_HEADS, SIZE = 4, 2, 32
QUERIES = 64
TOPICS = 24
SEEDS = 6


@dataclass(frozen=True)
class Made:
    """Made-up rows of one layer.

    q: (queries, heads, element). k, v: (tokens, kv_heads, element).
    """

    q: Floats
    k: Floats
    v: Floats


def made(seed: int, spread: float) -> Made:
    """Keys around topics (``spread``: their standard deviation), queries for one topic each.

    The first tokens point to where all queries have something in common, as attention sinks do.
    Values follow the topic too. With a large spread there are no clusters to be found.
    """
    rng = np.random.default_rng(seed)
    topics = rng.normal(size=(TOPICS, KV_HEADS, SIZE)) * 1.5
    meanings = rng.normal(size=(TOPICS, KV_HEADS, SIZE))
    common = rng.normal(size=(KV_HEADS, SIZE))
    common *= np.sqrt(SIZE) / np.linalg.norm(common, axis=-1, keepdims=True)
    topic = rng.integers(TOPICS, size=TOKENS)
    shape = (TOKENS, KV_HEADS, SIZE)
    k = topics[topic] + spread * rng.normal(size=shape)
    v = meanings[topic] + 0.5 * rng.normal(size=shape)
    k[:SINKS] = 2.0 * common + 0.1 * rng.normal(size=(SINKS, KV_HEADS, SIZE))
    v[:SINKS] *= 0.1
    asked = np.repeat(topics[rng.integers(TOPICS, size=QUERIES)], HEADS // KV_HEADS, axis=1)
    shared = np.repeat(common, HEADS // KV_HEADS, axis=0)
    q = asked + shared + 0.3 * rng.normal(size=asked.shape)
    return Made(q, k, v)


def window_of(backend: Backend, rows: Made, budget: int) -> Atoms:
    """The last tokens alone."""
    from backends.summary import kept

    return kept(backend, rows.k[-budget:], rows.v[-budget:])


def sinks_of(backend: Backend, rows: Made, budget: int) -> Atoms:
    """The first tokens and the last ones."""
    from backends.summary import joined, kept

    first = kept(backend, rows.k[:SINKS], rows.v[:SINKS])
    last = budget - SINKS
    return joined(backend, first, kept(backend, rows.k[-last:], rows.v[-last:]))


def summary_of(backend: Backend, rows: Made, budget: int) -> Atoms:
    """Sinks, two thirds of the rest for a window, a third for the centroids of all between."""
    from backends.summary import joined, kept, summarized

    centroids = (budget - SINKS) // 3
    last = budget - SINKS - centroids
    old = kept(backend, rows.k[SINKS:-last], rows.v[SINKS:-last])
    return joined(
        backend,
        kept(backend, rows.k[:SINKS], rows.v[:SINKS]),
        summarized(backend, old, centroids),
        kept(backend, rows.k[-last:], rows.v[-last:]),
    )


def merged_of(backend: Backend, rows: Made, budget: int) -> Atoms:
    """As `summary_of`, merged as the policy does it while tokens come.

    Whenever the window is full its older half joins the centroids, which are clustered anew with
    their masses. So the window holds between half and all of its cells at the end.
    """
    from backends.summary import joined, kept, summarized

    centroids = (budget - SINKS) // 3
    window = budget - SINKS - centroids
    atoms, start = [kept(backend, rows.k[:SINKS], rows.v[:SINKS])], SINKS
    while TOKENS - start > window:
        end = start + window // 2
        older = joined(backend, *atoms[1:], kept(backend, rows.k[start:end], rows.v[start:end]))
        atoms[1:] = [summarized(backend, older, centroids)]
        start = end
    return joined(backend, *atoms, kept(backend, rows.k[start:], rows.v[start:]))


WAYS: dict[str, Callable[[Any, Made, int], Any]] = {
    "window": window_of,
    "sinks and window": sinks_of,
    "summary": summary_of,
}


def error_of(backend: Backend, rows: Made, atoms: Atoms) -> float:
    """Error of the attention output relative to that over all tokens (Frobenius norms)."""
    from backends.summary import attend_atoms, kept

    scale = SIZE**-0.5
    exact = attend_atoms(backend, rows.q, kept(backend, rows.k, rows.v), scale)
    ours = attend_atoms(backend, rows.q, atoms, scale)
    return float(np.linalg.norm(ours - exact) / np.linalg.norm(exact))


def distance_of(rows: Made, atoms: Atoms) -> float:
    """2-Wasserstein distance of the keys to the atoms, the mean over the KV heads.

    Exact: every key carries one share of the mass, an atom takes as many of them as it stands
    for (spread evenly where it is less than all), and the cheapest assignment is found.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    found = []
    for head in range(KV_HEADS):
        mass = atoms.mass[:, head]
        ends = np.cumsum(mass) / mass.sum() * TOKENS
        takes = np.diff(np.round(ends), prepend=0).astype(int)
        places = np.repeat(np.arange(len(mass)), takes)
        cost = cdist(rows.k[:, head], atoms.k[:, head], "sqeuclidean")[:, places]
        key, place = linear_sum_assignment(cost)
        found.append(np.sqrt(cost[key, place].mean()))
    return float(np.mean(found))


def measured(spread: float, seeds: int = SEEDS, with_distance: bool = True) -> dict[str, Any]:
    """Error and distance by way, budget and seed; shape (budgets, seeds) each."""
    from backends.choice import backend_of

    backend = backend_of("numpy")
    found: dict[str, Any] = {
        way: {"error": np.empty((len(BUDGETS), seeds)), "distance": np.empty((len(BUDGETS), seeds))}
        for way in WAYS
    }
    for seed in range(seeds):
        rows = made(seed, spread)
        for index, budget in enumerate(BUDGETS):
            for way, make in WAYS.items():
                atoms = make(backend, rows, budget)
                found[way]["error"][index, seed] = error_of(backend, rows, atoms)
                if with_distance:
                    found[way]["distance"][index, seed] = distance_of(rows, atoms)
    return found


def reproduce(data: Path | None) -> Reproduction:
    """Measure all three over budgets and seeds; then without clusters in the keys."""
    del data
    from backends.choice import backend_of
    from backends.summary import kept, summarized

    backend, rows = backend_of("numpy"), made(0, 0.5)
    everything = kept(backend, rows.k, rows.v)
    lossless = error_of(backend, rows, summarized(backend, everything, TOKENS))
    found = measured(0.5)
    claims = [
        Claim(
            f"the {what} of the summary falls with the budget",
            ", ".join(f"{value:.3f}" for value in _medians(found["summary"][what])),
            list(_medians(found["summary"][what]))
            == sorted(_medians(found["summary"][what]), reverse=True),
        )
        for what in ("error", "distance")
    ]
    for what, first, words in (
        ("error", 1, "every seed from 64 cells on"),
        ("distance", 0, "every budget and seed"),
    ):
        for other in ("window", "sinks and window"):
            theirs, ours = found[other][what][first:], found["summary"][what][first:]
            ratio = _medians(theirs) / _medians(ours)
            claims.append(
                Claim(
                    f"{what} smaller than that of {other}, {words}",
                    f"{ratio.min():.1f} to {ratio.max():.1f} times smaller (medians)",
                    bool((theirs > ours).all()),
                )
            )
    return Reproduction(
        numbers=(
            Number("error where every token has an atom", 0.0, lossless, "", 1e-9, digits=9),
            *(
                Number(f"error of {way}, {budget} cells", None, value, "", digits=3)
                for way in WAYS
                for budget, value in zip(BUDGETS, _medians(found[way]["error"]), strict=True)
            ),
        ),
        claims=tuple(claims),
        sweeps=(_spreads(), _merging(found["summary"])),
        leaves_open=(
            "Everything: it names the idea and no parameters. Here: a third of the cells that are "
            "not sinks are centroids, keys are clustered by k-means, values averaged, the "
            "logarithm of the mass added to the logit. The figures are for clustering all old "
            "tokens at once; the policy merges half a window at a time, which is the second "
            "table of assumptions.",
            "Keys of a real model. These are made up: 24 topics, sinks, queries that ask for one "
            "topic each. What a model's answers lose is not measured by any of this.",
        ),
        notes=(
            "Relative error of the attention output and exact 2-Wasserstein distance between all "
            f"keys and what is kept, {HEADS} heads over {KV_HEADS} KV heads of {SIZE} elements, "
            f"{TOKENS:,} tokens, {QUERIES} queries, NumPy arrays in double precision; medians over "
            f"{SEEDS} seeds.",
        ),
        curves={
            "budgets": list(BUDGETS),
            **{
                way: {what: values.tolist() for what, values in both.items()}
                for way, both in found.items()
            },
        },
    )


def _medians(values: Floats) -> Floats:
    return np.asarray(np.median(values, axis=1))


def _spreads() -> Sweep:
    """Errors with tighter and looser clusters; the last are no clusters at all."""
    budget = BUDGETS.index(128)
    rows = []
    for spread in (0.1, 0.5, 1.0, 3.0):
        found = measured(spread, seeds=3, with_distance=False)
        errors = (f"{_medians(found[way]['error'])[budget]:.3f}" for way in WAYS)
        rows.append((f"{spread:g}", *errors))
    return Sweep(
        "how tightly keys lie around topics (error at 128 cells)",
        ("standard deviation", *WAYS),
        tuple(rows),
    )


def _merging(at_once: dict[str, Any]) -> Sweep:
    """What it costs that the policy has to merge as tokens come."""
    from backends.choice import backend_of

    backend, rows = backend_of("numpy"), [made(seed, 0.5) for seed in range(3)]
    lines = []
    for index, budget in enumerate(BUDGETS):
        atoms = [merged_of(backend, each, budget) for each in rows]
        pairs = list(zip(rows, atoms, strict=True))
        errors = [error_of(backend, each, kept) for each, kept in pairs]
        distances = [distance_of(each, kept) for each, kept in pairs]
        both = [np.median(at_once[what][index, :3]) for what in ("error", "distance")]
        columns = (both[0], np.median(errors), both[1], np.median(distances))
        lines.append((str(budget), *(f"{value:.3f}" for value in columns)))
    return Sweep(
        "whether old tokens are clustered at once, or half a window at a time as the policy does",
        ("cells", "error, at once", "by halves", "distance, at once", "by halves"),
        tuple(lines),
    )


def draw(found: Reproduction) -> Figure:
    """Error and distance against the budget, with the range of the seeds."""
    from matplotlib.figure import Figure

    from reports.plots.curves import Curve, Scale, curve_handle, draw_curves, legend_above
    from reports.style import looks_of

    looks = dict(zip(WAYS, looks_of(("ring", "iswa", "summary")).values(), strict=True))
    figure = Figure(figsize=(7, 3.2))
    panels = figure.subplots(1, 2)
    words = {
        "error": "relative error of the attention output",
        "distance": "2-Wasserstein distance of the keys",
    }
    for axes, (what, label) in zip(panels, words.items(), strict=True):
        curves = []
        for way in WAYS:
            values = np.array(found.curves[way][what])
            curves.append(
                Curve(
                    f"{way} (lossy)",
                    BUDGETS,
                    np.median(values, axis=1).tolist(),
                    looks[way],
                    values.min(axis=1).tolist(),
                    values.max(axis=1).tolist(),
                )
            )
        draw_curves(axes, curves, Scale("cells of a sequence", "log2", BUDGETS), Scale(label))
        axes.set_ylim(bottom=0)
    legend_above(figure, {curve.label: curve_handle(curve) for curve in curves})
    return figure
