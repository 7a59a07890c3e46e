"""From a model's layer groups to what llama.cpp's caches are made of, and how large they can be."""

from __future__ import annotations

from collections.abc import Callable

from sim.budget import Budget
from sim.groups import LayerGroup
from sim.llamacpp.context import Context
from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry, RecurrentGeometry
from sim.llamacpp.sizes import CELL_PAD, ContextParams
from sim.llamacpp.window import UNBOUNDED, Window
from workloads.errors import InputError

_WINDOWED = ("swa", "chunked")


def geometry_of(budget: Budget, policy: str, windowed: bool) -> CacheGeometry:
    """The caches llama.cpp would build for the model; without ``windowed`` all layers are full.

    Raises `InputError` where layers of one kind differ in shape: their rows would need caches of
    several widths, which llama.cpp does not have.
    """
    groups = budget.model.groups(windowed)
    full = _only([g for g in groups if g.kind == "full"], "full-attention", policy)
    swa = _only([g for g in groups if g.kind in _WINDOWED], "windowed", policy)
    state = _only([g for g in groups if g.kind == "recurrent"], "recurrent", policy)
    return CacheGeometry(
        arch=budget.model.name,
        full=None if full is None else _attention(full),
        swa=None if swa is None else _attention(swa),
        window=UNBOUNDED if swa is None else _window(swa),
        recurrent=None
        if state is None
        else RecurrentGeometry(state.layers, state.conv_elements, state.state_elements),
    )


def with_attention(geometry: CacheGeometry, policy: str) -> CacheGeometry:
    """``geometry``; raises `InputError` where it is one of recurrent states alone."""
    if geometry.kind == "rs":
        raise InputError(f"{policy}: {geometry.arch} has no attention; recurrent serves it")
    return geometry


def largest_context(
    policy: str,
    geometry: CacheGeometry,
    params: Callable[[int], ContextParams],
    n_bytes: int,
    sequences: int,
    in_full: int,
) -> Context:
    """The context with the most cells that fits into ``n_bytes``, in steps of a pad.

    params: what is asked of a context of so many cells. in_full: cells that fit with all layers
    cached in full; where all layers have windows, so that a context of any size fits, it gets
    these. Raises `InputError` where not even the smallest one for ``sequences`` sequences fits.
    """

    def context(pads: int) -> Context:
        return Context(geometry, params(pads * CELL_PAD))

    def size(pads: int) -> int:
        return sum(part.total for part in context(pads).memory_breakdown().values())

    smallest = -(-sequences // CELL_PAD)
    if (needed := size(smallest)) > n_bytes:
        states = "" if geometry.recurrent is None else f" and {sequences} recurrent states"
        raise InputError(
            f"{policy}: {n_bytes} bytes of K/V memory: expected at least those of "
            f"{smallest * CELL_PAD} cells{states}, the smallest context ({needed} bytes)"
        )
    low, high = smallest, smallest * 2
    while (needed := size(high)) <= n_bytes:
        if low >= sequences and needed == size(low):  # Each stream has a pad, so it could grow.
            return context(max(low, in_full // CELL_PAD))
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= n_bytes else (low, middle)
    return context(low)


def _only(groups: list[LayerGroup], what: str, policy: str) -> LayerGroup | None:
    if len(groups) > 1:
        raise InputError(f"{policy}: the model's {what} layers have several shapes, expected one")
    return groups[0] if groups else None


def _attention(group: LayerGroup) -> AttentionGeometry:
    return AttentionGeometry(
        layers=group.layers,
        k_width=group.k_elements,
        v_width=group.v_elements,
        head_dim=group.k_elements // group.kv_heads,
    )


def _window(group: LayerGroup) -> Window:
    return Window("standard" if group.kind == "swa" else "chunked", group.window)
