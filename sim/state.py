"""The recurrent state of one layer."""

from __future__ import annotations

from dataclasses import dataclass

from sim.checks import require_kind, require_positive
from workloads.errors import InputError

STATE_KINDS = ("mamba", "mamba2", "deltanet", "kda", "rwkv", "shortconv")


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """Recurrent state of one layer: one row a sequence, always f32 (llama.cpp's R and S).

    kind: ``mamba`` (selective scan with a low-rank step of ``dt_rank``), ``mamba2`` (``heads``
        heads; B and C in ``groups`` groups), ``deltanet`` (gated delta rule, Qwen3-Next: ``heads``
        heads of values, ``groups`` heads of keys and queries of ``d_state`` elements each),
        ``kda`` (the same with a gate a channel, each made in ``d_state`` elements; Kimi Linear),
        ``rwkv`` (RWKV 6 and 7: a matrix of ``d_state`` x ``d_state`` elements a head) or
        ``shortconv`` (gated short convolution, LFM2).
    d_inner: channels. d_conv: taps of the convolution; with ``rwkv`` one more than the tokens
        before that are kept. d_state: state elements a channel.
    """

    kind: str
    d_inner: int
    d_conv: int
    d_state: int = 0
    dt_rank: int | None = None
    heads: int | None = None
    groups: int | None = None

    def __post_init__(self) -> None:
        require_kind("state kind", self.kind, STATE_KINDS)
        require_positive(
            d_inner=self.d_inner,
            d_conv=self.d_conv,
            dt_rank=self.dt_rank,
            heads=self.heads,
            groups=self.groups,
        )
        wanted: dict[str, dict[str, int | None]] = {
            "mamba": {"dt_rank": self.dt_rank, "d_state": self.d_state},
            "mamba2": {"heads": self.heads, "groups": self.groups, "d_state": self.d_state},
            "deltanet": {"heads": self.heads, "groups": self.groups, "d_state": self.d_state},
            "kda": {"heads": self.heads, "groups": self.groups, "d_state": self.d_state},
            "rwkv": {"d_state": self.d_state},
            "shortconv": {},
        }
        for name, value in wanted[self.kind].items():
            if not value:
                raise InputError(f"state kind {self.kind!r} needs {name}")

    @property
    def _conv_channels(self) -> int:
        return self.d_inner + 2 * (self.groups or 0) * self.d_state

    @property
    def conv_elements(self) -> int:
        """Elements of the convolution's memory of one sequence (llama.cpp's ``n_embd_r``)."""
        return (self.d_conv - 1) * self._conv_channels

    @property
    def state_elements(self) -> int:
        """Elements of the scan's state of one sequence (llama.cpp's ``n_embd_s``)."""
        return self.d_state * self.d_inner

    def parameters(self, hidden: int) -> int:
        """Elements of the projections, the convolution and the state matrix."""
        conv = self._conv_channels * self.d_conv
        output = self.d_inner * hidden
        if self.kind == "mamba":
            rank = self.dt_rank or 0
            scan = self.d_inner * (rank + 2 * self.d_state + rank + self.d_state)
            return 2 * hidden * self.d_inner + conv + scan + output
        if self.kind == "rwkv":
            # Receptance, key, value, output. Tokens before are kept, not convolved.
            return 3 * hidden * self.d_inner + output
        if self.kind == "kda":
            gates = 2 * (hidden + self.d_inner) * self.d_state + hidden * (self.heads or 0)
            return hidden * self._conv_channels + conv + gates + output
        if self.kind in ("mamba2", "deltanet"):
            # A step size a head; the delta rule has a gate a head besides.
            steps = (self.heads or 0) * (2 if self.kind == "deltanet" else 1)
            return hidden * (self.d_inner + self._conv_channels + steps) + conv + output
        return 3 * hidden * self.d_inner + conv + output
