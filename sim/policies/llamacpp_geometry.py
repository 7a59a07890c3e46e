"""From a model's layer groups to what llama.cpp's caches are made of."""

from __future__ import annotations

from sim.budget import Budget
from sim.groups import LayerGroup
from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry, RecurrentGeometry
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
