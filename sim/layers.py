"""One layer of a model: what it caches, what its matrices hold, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from sim.checks import require_kind, require_positive
from sim.state import StateSpec
from workloads.errors import InputError

WINDOWED = ("swa", "chunked")
CROSS = "cross"
ATTENTION_KINDS = ("full", *WINDOWED, CROSS)

MAX_LAYERS = 10_000
"""More layers than any model has: a file that asks for more has a mistake in it."""


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """Attention of one layer.

    kind: ``full``, ``swa`` (a token sees the last ``window`` tokens, itself included),
        ``chunked`` (it sees its own chunk of ``window`` tokens) or ``cross`` (it sees the
        ``window`` tokens of an image, and nothing of the text).
    heads, kv_heads: query heads, and heads of K and V (fewer: GQA; one: MQA).
    head_dim_k, head_dim_v: elements of one head of K (and Q) and of V.
    latent, rope: with MLA, elements of the compressed K/V and of the shared rotary key. A token
        then caches ``latent + rope`` elements and no V at all (DeepSeek-V2 paper, section 2.1).
    q_latent: rank of MLA's compressed query, where it has one.
    output_gate: whether the output is gated by a projection as wide as the queries (Qwen3-Next).
    k_is_v: whether V is made of what K is made of, without a projection of its own (Gemma 4); it
        is cached all the same.
    borrows: whether K and V are those of the last layer before it that has the same shape and
        some of its own (Gemma 3n); such a layer projects and caches none.
    """

    heads: int
    kv_heads: int
    head_dim_k: int
    head_dim_v: int
    kind: str = "full"
    window: int | None = None
    latent: int | None = None
    rope: int | None = None
    q_latent: int | None = None
    output_gate: bool = False
    k_is_v: bool = False
    borrows: bool = False

    def __post_init__(self) -> None:
        require_kind("attention kind", self.kind, ATTENTION_KINDS)
        require_positive(
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim_k=self.head_dim_k,
            head_dim_v=self.head_dim_v,
            window=self.window,
            latent=self.latent,
            rope=self.rope,
            q_latent=self.q_latent,
        )
        if self.heads % self.kv_heads:
            raise InputError(f"heads ({self.heads}) must be a multiple of kv_heads={self.kv_heads}")
        if (self.kind != "full") != (self.window is not None):
            wanted = "needs" if self.kind != "full" else "takes no"
            raise InputError(f"attention kind {self.kind!r} {wanted} window")
        if (self.latent is None) != (self.rope is None):
            raise InputError("latent and rope (MLA) must be given together")
        if self.rope is not None and self.rope >= self.head_dim_k:
            raise InputError(f"rope ({self.rope}) must be part of head_dim_k={self.head_dim_k}")

    @property
    def k_elements(self) -> int:
        """Elements of K that one token caches in this layer."""
        if self.latent is not None and self.rope is not None:
            return self.latent + self.rope
        return self.kv_heads * self.head_dim_k

    @property
    def v_elements(self) -> int:
        """Elements of V that one token caches in this layer."""
        return 0 if self.latent is not None else self.kv_heads * self.head_dim_v

    @property
    def pair_flops(self) -> int:
        """FLOPs of scoring one query against one cached token and adding its value.

        MLA is counted in its absorbed form, where queries meet the latent itself.
        """
        if self.latent is not None:
            return 2 * self.heads * (self.k_elements + self.latent)
        return 2 * self.heads * (self.head_dim_k + self.head_dim_v)

    def parameters(self, hidden: int) -> int:
        """Elements of the projection matrices."""
        queries = self.heads * self.head_dim_k
        output = self.heads * self.head_dim_v * hidden * (2 if self.output_gate else 1)
        if self.latent is None or self.rope is None:
            k, v = self.k_elements, 0 if self.k_is_v else self.v_elements
            return hidden * (queries + (0 if self.borrows else k + v)) + output
        query = self.q_latent * (hidden + queries) if self.q_latent else hidden * queries
        expanded = self.heads * (self.head_dim_k - self.rope + self.head_dim_v)
        return query + hidden * self.k_elements + self.latent * expanded + output


@dataclass(frozen=True, kw_only=True)
class FeedForwardSpec:
    """The feed-forward part of one layer, dense or a mixture of experts.

    intermediate: width; with experts, of each of them. gated: three matrices (up, gate, down),
        otherwise two. experts, active_experts: how many there are and how many a token visits.
    shared: width of the expert that every token visits.
    """

    intermediate: int
    gated: bool = True
    experts: int = 0
    active_experts: int = 0
    shared: int = 0

    def __post_init__(self) -> None:
        require_positive(intermediate=self.intermediate)
        if not 0 <= self.active_experts <= self.experts or self.shared < 0:
            raise InputError(
                "experts, active_experts and shared must not be negative, and active_experts "
                f"({self.active_experts}) not more than experts ({self.experts})"
            )
        if self.experts and not self.active_experts:
            raise InputError("experts needs active_experts, at least 1")

    def parameters(self, hidden: int) -> int:
        """Elements of all matrices."""
        return self.common_parameters(hidden) + self.experts * self.expert_parameters(hidden)

    def common_parameters(self, hidden: int) -> int:
        """Elements that every token uses: a dense feed-forward, or router and shared expert."""
        if not self.experts:
            return self._matrices * hidden * self.intermediate
        return hidden * self.experts + self._matrices * hidden * self.shared

    def expert_parameters(self, hidden: int) -> int:
        """Elements of the matrices of one expert; 0 where there are none."""
        return self._matrices * hidden * self.intermediate if self.experts else 0

    def visited_experts(self, tokens: int) -> float:
        """How many experts ``tokens`` tokens visit, expected where each picks at random."""
        if not self.experts:
            return 0.0
        return self.experts * (1.0 - (1.0 - self.active_experts / self.experts) ** tokens)

    @property
    def _matrices(self) -> int:
        return 3 if self.gated else 2


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One layer: attention, recurrent state, both side by side (Falcon-H1) or neither.

    others: elements of further matrices that every token is multiplied with there (low-rank
        residuals, inputs of the layer's own); tensor parallelism does not divide them.
    """

    attention: AttentionSpec | None = None
    state: StateSpec | None = None
    feed_forward: FeedForwardSpec | None = None
    others: int = 0

    @property
    def kind(self) -> str:
        """The kind of its attention, else ``recurrent``, else ``none``."""
        if self.attention is not None:
            return self.attention.kind
        return "none" if self.state is None else "recurrent"

    def common_parameters(self, hidden: int) -> int:
        """Elements of the matrices that every token uses: all but the routed experts."""
        total = self.others
        if self.attention is not None:
            total += self.attention.parameters(hidden)
        if self.state is not None:
            total += self.state.parameters(hidden)
        if self.feed_forward is not None:
            total += self.feed_forward.common_parameters(hidden)
        return total
