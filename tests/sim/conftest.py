"""Small models and budgets, so that caches fill up quickly."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.budget import Budget
from sim.layers import AttentionSpec, LayerSpec
from sim.model import ModelSpec

MakeBudget = Callable[..., Budget]


def attention(kind: str, window: int | None = None) -> LayerSpec:
    return LayerSpec(
        attention=AttentionSpec(
            heads=4, kv_heads=2, head_dim_k=32, head_dim_v=32, kind=kind, window=window
        )
    )


@pytest.fixture(scope="session")
def models() -> dict[str, ModelSpec]:
    """Two layers each: full attention, a window beside it, and chunks beside it."""
    kinds = {
        "full": (attention("full"),) * 2,
        "windowed": (attention("full"), attention("swa", 40)),
        "chunked": (attention("full"), attention("chunked", 32)),
    }
    return {
        name: ModelSpec(name=name, layers=layers, hidden=128, vocab=100)
        for name, layers in kinds.items()
    }


@pytest.fixture(scope="session")
def budget_of(models: dict[str, ModelSpec]) -> MakeBudget:
    """A budget of so many tokens (all layers in full) for one of the small models."""

    def make(kind: str = "full", tokens: int = 1024, **limits: int) -> Budget:
        model = models[kind]
        limits = {"max_seqs": 6, "max_batched_tokens": 128, "max_model_len": 400} | limits
        return Budget(model, bytes=tokens * model.token_bytes(), **limits)

    return make
