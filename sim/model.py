"""A model as the cache and the clock see it: its layers, their cache geometry, its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from sim.checks import require_positive
from sim.dtypes import KVType, kv_type
from sim.groups import LayerGroup, grouped
from sim.layers import CROSS, AttentionSpec, FeedForwardSpec, LayerSpec
from sim.state import StateSpec
from workloads.errors import InputError

__all__ = [
    "AttentionSpec",
    "FeedForwardSpec",
    "LayerGroup",
    "LayerSpec",
    "ModelSpec",
    "StateSpec",
]

NO_LIMIT = 1 << 30
"""``max_context`` of a model that names no longest context."""


@dataclass(frozen=True)
class ModelSpec:
    """A model's geometry. Immutable, hashable, and safe to pickle.

    layers: from the first to the last. hidden: width of the residual stream. vocab: rows of the
    embedding. tied_embeddings: the output head is the embedding itself. max_context: longest
    sequence in tokens. bytes_per_parameter: of the weights as they are kept in memory. unread:
    elements in memory that no step reads as a whole: tables of which a token looks up a row, and
    what is there and never used.

    Parameter counts are those of the matrices. Norm scales and biases (under 0.1 % of any
    built-in model) and learned position embeddings (OPT's 10 M) are left out.
    """

    name: str
    layers: tuple[LayerSpec, ...]
    hidden: int
    vocab: int
    tied_embeddings: bool = False
    max_context: int = NO_LIMIT
    bytes_per_parameter: float = 2.0
    unread: int = 0

    def __post_init__(self) -> None:
        require_positive(hidden=self.hidden, vocab=self.vocab, max_context=self.max_context)
        if not self.layers:
            raise InputError("layers must be at least 1, not 0")
        if not 0 < self.bytes_per_parameter <= 8:
            raise InputError(
                f"bytes_per_parameter must be in (0, 8], not {self.bytes_per_parameter}"
            )

    def groups(self, windowed: bool = True) -> tuple[LayerGroup, ...]:
        """Layers grouped by cache geometry: full, swa, chunked, recurrent; then by first layer.

        With ``windowed=False`` every attention layer is cached in full, windows forgotten (an
        engine without a window-aware cache). A layer with attention and state is in two groups.
        """
        return self._groups if windowed else self._full_groups

    @cached_property
    def _groups(self) -> tuple[LayerGroup, ...]:
        return grouped(self.layers, windowed=True)

    @cached_property
    def _full_groups(self) -> tuple[LayerGroup, ...]:
        return grouped(self.layers, windowed=False)

    def token_bytes(
        self, kv_type_k: str | KVType = "f16", kv_type_v: str | KVType | None = None
    ) -> int:
        """Bytes of one token with every attention layer cached in full; 0 if there is none."""
        return sum(group.cell_bytes(kv_type_k, kv_type_v) for group in self.groups())

    @property
    def state_bytes(self) -> int:
        """Bytes of the recurrent state (f32) of one sequence; 0 for a pure attention model."""
        return sum(group.state_bytes for group in self.groups())

    @property
    def embedding_parameters(self) -> int:
        """Elements of the token embedding; the output head is as large."""
        return self.vocab * self.hidden

    @cached_property
    def parameters(self) -> int:
        """Elements of all matrices, embedding and head included."""
        experts = sum(
            count * part.experts * part.expert_parameters(self.hidden)
            for part, count in self._expert_layers
        )
        images = sum(layer.common_parameters(self.hidden) for layer in self.image_layers)
        return self._looked_up + self._common_parameters + experts + images

    @property
    def image_layers(self) -> tuple[LayerSpec, ...]:
        """Layers that attend to an image. Text alone, as requests are here, passes them over."""
        return tuple(layer for layer in self.layers if layer.kind == CROSS)

    def image_bytes(
        self, kv_type_k: str | KVType = "f16", kv_type_v: str | KVType | None = None
    ) -> int:
        """Bytes of K and V of one image in all layers that attend to it."""
        type_k, type_v = kv_type(kv_type_k), kv_type(kv_type_k if kv_type_v is None else kv_type_v)
        attention = (layer.attention for layer in self.image_layers)
        return sum(
            (part.window or 0)
            * (type_k.bytes_of(part.k_elements) + type_v.bytes_of(part.v_elements))
            for part in attention
            if part is not None
        )

    @cached_property
    def active_parameters(self) -> int:
        """`parameters` less what a token does not visit: other experts, layers for images."""
        experts = sum(
            count * part.active_experts * part.expert_parameters(self.hidden)
            for part, count in self._expert_layers
        )
        return self._looked_up + self._common_parameters + experts

    @property
    def linear_flops_per_token(self) -> int:
        """FLOPs of all matrices for one token, output head included, embedding lookup not."""
        return 2 * (self.active_parameters - self._looked_up)

    @property
    def head_flops_per_token(self) -> int:
        """The part of `linear_flops_per_token` that only tokens with logits cost."""
        return 2 * self.embedding_parameters

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return round(self.parameters * self.bytes_per_parameter)

    def read_weight_bytes(self, tokens: int) -> float:
        """Weight bytes that one step over ``tokens`` tokens reads.

        Everything but the embedding lookup; of the experts of each layer as many as that many
        tokens visit, were each of them to pick at random (an expectation, so a float).
        """
        experts = sum(
            count * part.visited_experts(tokens) * part.expert_parameters(self.hidden)
            for part, count in self._expert_layers
        )
        return (self._common_parameters + experts) * self.bytes_per_parameter

    @property
    def _looked_up(self) -> int:
        """Elements that no matrix product touches; the embedding where it is not the head too."""
        return self.unread + (0 if self.tied_embeddings else self.embedding_parameters)

    @cached_property
    def _common_parameters(self) -> int:
        """Elements that every token is multiplied with: head, layers, not the routed experts."""
        layers = Counter(layer for layer in self.layers if layer.kind != CROSS).items()
        return self.embedding_parameters + sum(
            count * layer.common_parameters(self.hidden) for layer, count in layers
        )

    @property
    def has_experts(self) -> bool:
        """Whether it depends on the tokens which weights are read."""
        return bool(self._expert_layers)

    @cached_property
    def _expert_layers(self) -> tuple[tuple[FeedForwardSpec, int], ...]:
        """Each distinct mixture of experts, and the number of layers that have it."""
        parts = (layer.feed_forward for layer in self.layers)
        return tuple(Counter(part for part in parts if part and part.experts).items())
