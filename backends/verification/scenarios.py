"""Small situations that between them make a policy use everything it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backends.formats import FORMATS
from backends.verification.models import checking_model
from backends.verification.traffic import Mixed
from backends.verify import VerifyReport, verify
from sim.budget import Budget
from sim.model import ModelSpec
from sim.plugins import policy_of, scheduler_of
from sim.policies.base import Policy
from sim.schedulers.base import Scheduler
from sim.speculation import Speculation
from workloads.errors import InputError
from workloads.request import Workload

SCHEDULER = "sim.schedulers.vllm:VllmScheduler"
"""By its place, so that it is found where the package is not installed."""


@dataclass(frozen=True)
class Scenario:
    """A model, a memory, traffic and ways to run it.

    model: kind of attention of `checking_model`, or a model of its own. tokens: memory, in tokens
    with every layer cached in full; states come on top. options: of the policy. scheduling: options
    of the scheduler. drafts: how often at least the first, the first two, ... tokens of a draft are
    accepted; lookahead: see `Speculation`.
    at_once: take runs of decode steps as one. v_transposed: V as llama.cpp keeps
    it without flash attention.
    """

    name: str
    model: str | ModelSpec = "full"
    tokens: int = 1024
    kv_type: str = "f32"
    max_seqs: int = 8
    batched: int = 64
    workload: Workload = field(default_factory=Mixed)
    options: Mapping[str, Any] = field(default_factory=dict)
    scheduling: Mapping[str, Any] = field(default_factory=dict)
    at_once: bool = False
    v_transposed: bool = False

    drafts: tuple[float, ...] = ()
    lookahead: int = 0

    def budget(self) -> Budget:
        """The memory and the limits."""
        model = checking_model(self.model) if isinstance(self.model, str) else self.model
        return Budget(
            model,
            self.tokens * model.token_bytes(self.kv_type) + self.max_seqs * model.state_bytes,
            self.kv_type,
            self.kv_type,
            max_seqs=self.max_seqs,
            max_batched_tokens=self.batched,
            max_model_len=self.tokens,
        )

    def policy(self, name: str) -> Policy:
        """The policy of that name, laid out; `InputError` where it cannot be."""
        return policy_of(name, self.budget(), self.options)

    def run(self, policy: Policy, backend: str = "numpy") -> VerifyReport:
        """Verify a policy over `budget`."""
        return verify(
            policy,
            self._scheduler,
            self.workload,
            backend=backend,
            at_once=self.at_once,
            v_transposed=self.v_transposed,
        )

    def _scheduler(self, policy: Policy) -> Scheduler:
        scheduler = scheduler_of(SCHEDULER, policy, self.scheduling)
        if self.drafts:
            scheduler.speculate(Speculation(self.drafts, lookahead=self.lookahead))
        return scheduler

    def outcome(self, policy: str, backend: str = "numpy") -> Outcome:
        """Verify the policy of that name, or say why it refuses."""
        try:
            made = self.policy(policy)
        except InputError as error:
            return Outcome(self, None, str(error))
        return Outcome(self, self.run(made, backend))


@dataclass(frozen=True)
class Outcome:
    """A scenario with what came of it: a report, or the reason why the policy refuses it."""

    scenario: Scenario
    report: VerifyReport | None
    refusal: str = ""

    @property
    def failed(self) -> bool:
        """Whether something was wrong, a refusal not counted."""
        return self.report is not None and not self.report.passed


SWAP = {"preemption": "swap"}
TIGHT = 512
"""Cells that the running sequences of `Mixed` fill; llama.cpp's caches come in steps of 256."""
HOLES: Mapping[str, Any] = {
    "tokens": 3072,
    "max_seqs": 6,
    "batched": 1024,
    "workload": Mixed(requests=10, prompt=1000, output=12),
}
"""More than 2,048 cells in use: llama.cpp closes no holes between fewer."""

GENERAL = (
    Scenario("room for all"),
    Scenario("preemption, recompute", tokens=TIGHT),
    Scenario("preemption, swap", tokens=TIGHT, scheduling=SWAP),
    Scenario("shared prefixes", workload=Mixed(shared=50)),
    Scenario("shared prefixes, tight", tokens=TIGHT, workload=Mixed(shared=50)),
    Scenario("samples", tokens=2048, workload=Mixed(samples=3)),
    Scenario("samples, tight", tokens=TIGHT, workload=Mixed(samples=3), scheduling=SWAP),
    Scenario("beams", tokens=2048, workload=Mixed(beams=4)),
    Scenario("beams, tight", tokens=TIGHT, workload=Mixed(beams=4), scheduling=SWAP),
    Scenario("beams, decode runs", tokens=2048, workload=Mixed(beams=4), at_once=True),
    Scenario("decode runs", at_once=True),
    Scenario("decode runs, tight", tokens=TIGHT, workload=Mixed(shared=50), at_once=True),
    Scenario("sliding windows", "swa", max_seqs=4),
    Scenario("sliding windows, swap", "swa", TIGHT, scheduling=SWAP),
    Scenario("sliding windows, decode runs", "swa", max_seqs=4, at_once=True),
    Scenario("chunks", "chunked", max_seqs=4),
)

RATES = (0.7, 0.5, 0.4, 0.2)
SPECULATIVE = (
    Scenario("drafts", drafts=RATES),
    Scenario("drafts, tight", tokens=TIGHT, drafts=RATES),
    Scenario("drafts, tight, swap", tokens=TIGHT, drafts=RATES, scheduling=SWAP),
    Scenario("drafts, shared prefixes", workload=Mixed(shared=50), drafts=RATES, lookahead=4),
    Scenario("drafts, samples", tokens=2048, workload=Mixed(samples=3), drafts=RATES, lookahead=4),
    Scenario("drafts, sliding windows", "swa", max_seqs=4, drafts=RATES),
    Scenario("drafts, chunks", "chunked", max_seqs=4, drafts=RATES),
)
"""For policies that can take drafts back."""

ESPECIALLY = {
    "contiguous": (
        Scenario("reserve max", tokens=2048, options={"reserve": "max"}),
        Scenario("oracle, best fit", options={"reserve": "oracle", "fit": "best"}),
        Scenario("buddy", options={"fit": "buddy"}),
        Scenario("growing", tokens=TIGHT, options={"reserve": "exact"}),
        Scenario(
            "growing, compaction, swap",
            tokens=400,
            options={"reserve": "exact", "compaction": True},
            scheduling=SWAP,
        ),
    ),
    "ring": (
        Scenario("contiguous slots", tokens=TIGHT, options={"slots": "contiguous"}),
        Scenario("streams", tokens=2048, options={"streams": "per-sequence"}),
        Scenario(
            "streams, samples",
            tokens=2048,
            workload=Mixed(samples=3),
            options={"streams": "per-sequence"},
        ),
        Scenario("context shift", tokens=TIGHT, options={"window": 64}),
        Scenario("context shift, tight", tokens=256, options={"window": 64}, scheduling=SWAP),
        Scenario("context shift, decode runs", tokens=TIGHT, options={"window": 64}, at_once=True),
        Scenario(
            "V transposed, context shift",
            tokens=256,
            options={"window": 64},
            scheduling=SWAP,
            v_transposed=True,
        ),
        Scenario(
            "V transposed, streams, samples",
            tokens=2048,
            workload=Mixed(samples=3),
            options={"streams": "per-sequence"},
            v_transposed=True,
        ),
        Scenario("defragmentation", **HOLES, options={"defrag": 0.05}),
        Scenario(
            "defragmentation, few rows", **HOLES, options={"defrag": 0.05, "defrag_nodes": 24}
        ),
        Scenario("compaction", **HOLES, options={"compaction": 0.05}, scheduling=SWAP),
        Scenario(
            "compaction, context shift, decode runs",
            **HOLES,
            options={"compaction": 0.05, "window": 700},
            at_once=True,
        ),
    ),
    "iswa": (
        Scenario("small ubatches", "swa", max_seqs=4, options={"ubatch": 16}),
        Scenario("streams", "swa", max_seqs=4, tokens=4096, options={"streams": "per-sequence"}),
        Scenario("full windows", "swa", max_seqs=4, options={"swa_full": True}),
        Scenario("V transposed", "swa", max_seqs=4, kv_type="f16", v_transposed=True),
    ),
    "hybrid": (
        Scenario(
            "drafts beside states",
            checking_model("hybrid", window=1 << 12),
            options={"snapshots": 4, "ubatch": 64},
            drafts=RATES,
        ),
        Scenario("rows beside states", "hybrid"),
        Scenario("rows beside states, swap", "hybrid", TIGHT, scheduling=SWAP),
        Scenario("rows beside states, decode runs", "hybrid", at_once=True),
        Scenario(
            "streams beside states",
            "hybrid",
            tokens=2048,
            max_seqs=4,
            options={"streams": "per-sequence"},
        ),
    ),
    "paged": (
        Scenario("blocks of 4", tokens=TIGHT, options={"block_size": 4}),
        Scenario("no prefix cache", tokens=TIGHT, options={"prefix_cache": False}),
        Scenario("windows forgotten", "swa", options={"hybrid": False}),
        Scenario("blocks of 4, beams", workload=Mixed(beams=4), options={"block_size": 4}),
    ),
    "summary": (
        Scenario(
            "until old tokens are merged",
            options={"window": 128, "centroids": 32},
            batched=32,
        ),
    ),
    "radix": (
        Scenario("pages of 4", tokens=TIGHT, options={"page_size": 4}),
        Scenario(
            "pages of 4, beams",
            tokens=512,
            workload=Mixed(beams=4, shared=50),
            options={"page_size": 4},
        ),
        Scenario("no prefix cache", tokens=TIGHT, options={"prefix_cache": False}),
    ),
}


FITTING: Mapping[str, Mapping[str, Any]] = {"summary": {"window": 256, "centroids": 64}}
"""Options without which a policy would refuse most of what suits any."""


def scenarios_of(policy: str) -> Iterator[Scenario]:
    """Those that suit any policy, those made for this one, and one for each type of K and V.

    `hybrid` serves none of the general models.
    """
    if policy == "hybrid":
        yield from ESPECIALLY[policy]
        return
    general = [replace(each, options=FITTING.get(policy, {})) for each in GENERAL]
    yield from general
    yield from ESPECIALLY.get(policy, ())
    if policy in ("none", "contiguous", "ring", "iswa", "paged"):
        yield from SPECULATIVE
    for kind in FORMATS:
        if kind != "f32":
            yield replace(general[1], name=f"type {kind}", kv_type=kind)
