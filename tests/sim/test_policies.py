"""All policies against the slow model of `sim.shadow`, at every step of made-up traffic."""

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.checking import CheckedRun, check_policy
from sim.errors import IntegrityError, UnsupportedOperation
from sim.plugins import policy_of
from sim.policies.contiguous import Contiguous
from sim.registries import POLICIES
from sim.sequence import Sequence
from workloads.errors import InputError
from workloads.request import Request

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    *(
        ("contiguous", {"reserve": reserve, "fit": fit})
        for reserve in ("max", "pow2", "oracle", "exact")
        for fit in ("first", "best", "buddy")
    ),
    ("contiguous", {"reserve": "oracle", "compaction": True}),
    ("contiguous", {"reserve": "exact", "compaction": True}),
    ("ring", {}),
    ("ring", {"slots": "contiguous"}),
    ("ring", {"streams": "per-sequence"}),
    ("ring", {"ubatch": 24}),
    ("iswa", {}),
    ("iswa", {"ubatch": 24}),
    ("iswa", {"swa_full": True}),
    ("iswa", {"streams": "per-sequence"}),
    ("paged", {}),
    ("paged", {"block_size": 4}),
    ("paged", {"prefix_cache": False}),
    ("radix", {}),
    ("radix", {"page_size": 4}),
    ("radix", {"reserve_full_isl": False}),
    ("radix", {"prefix_cache": False}),
    ("radix", {"eviction": "arc"}),
    ("radix", {"windowed": False}),
    ("radix", {"swa_full_tokens_ratio": 0.5, "page_size": 4}),
]
KINDS = ("full", "windowed", "chunked")
variants = st.sampled_from(VARIANTS)


@st.composite
def traffic(draw: st.DrawFn) -> list[Request]:
    """A few requests, some of which go on from the prompt of an earlier one."""
    requests: list[Request] = []
    arrival = 0
    for number in range(draw(st.integers(1, 10))):
        arrival += draw(st.integers(0, 30))
        prompt, output = draw(st.integers(1, 220)), draw(st.integers(1, 60))
        path = ((number, prompt + output),)
        if requests and draw(st.booleans()):
            before = draw(st.sampled_from(requests))
            shared = draw(st.integers(1, before.prompt))
            prompt = max(prompt, shared)
            assert before.path is not None
            kept = tuple((branch, end) for branch, end in before.path if end < shared)
            branch = next(branch for branch, end in before.path if end >= shared)
            path = (*kept, (branch, shared), (number, prompt + output))
        requests.append(Request(number, float(arrival), prompt, output, path))
    return requests


schedules = st.fixed_dictionaries(
    {},
    optional={
        "max_batched_tokens": st.sampled_from([16, 64, 128]),
        "preemption": st.sampled_from(["recompute", "swap"]),
        "policy": st.sampled_from(["fcfs", "priority"]),
        "long_prefill_threshold": st.sampled_from([0, 10]),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(variants, st.sampled_from(KINDS), traffic(), schedules, st.integers(1, 40))
def test_every_token_is_found_and_every_cell_comes_back(
    budget_of, variant, kind, requests, schedule, longest
):
    name, options = variant
    tokens = 2048 if options.get("streams") else 512
    policy = policy_of(name, budget_of(kind, tokens=tokens), options)
    run = CheckedRun(policy, schedule, longest_run=lambda: longest)
    run.serve(requests)
    fitting = [r for r in requests if policy.can_ever_hold(Sequence(0, r))]
    assert all(r.prompt + r.output <= policy.budget.max_model_len for r in requests)
    assert len(run.finished) == len(fitting)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_runs_of_steps_and_single_steps_serve_alike(budget_of, name, options):
    budget = budget_of("windowed", tokens=2048)
    assert check_policy(lambda budget: policy_of(name, budget, options), budget, seed=5) > 100


class Leaky(Contiguous):
    """Keeps a cell of everybody who leaves."""

    def release(self, seq):
        slot = self._slots.get(seq.id)
        super().release(seq)
        if slot is not None and self._free.free == self.capacity:
            self._free.take(1)


class Displaced(Contiguous):
    """Says that the tokens lie one cell further than they do, once there are many."""

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        return positions, cells + (len(cells) > 100)


class Forgetful(Contiguous):
    """Moves sequences without a copy."""

    def _owe(self, src, dst, n, kind):
        pass


class Misdrawn(Contiguous):
    """Draws part of its map one cell further."""

    def owners_at(self, cells, cache=0):
        return self.owners(cache)[cells - 1]


@pytest.mark.parametrize(
    ("wrong", "options"),
    [(Leaky, {}), (Displaced, {}), (Forgetful, {"reserve": "exact"}), (Misdrawn, {})],
)
def test_a_wrong_policy_is_noticed(budget_of, wrong, options):
    with pytest.raises(IntegrityError):
        check_policy(
            lambda budget: wrong(budget, wrong.Options(**options)), budget_of("full"), seed=1
        )


@pytest.mark.parametrize("name", POLICIES.names())
def test_options_are_documented_and_frozen(budget_of, name):
    options = POLICIES.load(name).Options
    assert dataclasses.is_dataclass(options)
    assert options.__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        options().anything = 1


def test_unknown_names_get_a_suggestion(budget_of):
    with pytest.raises(InputError, match="did you mean 'paged'"):
        policy_of("pagd", budget_of())
    with pytest.raises(InputError, match="did you mean 'reserve'"):
        policy_of("contiguous", budget_of(), {"reserv": "max"})
    with pytest.raises(InputError, match=r"contiguous.*reserve.*max"):
        policy_of("contiguous", budget_of(), {"reserve": "most"})


def test_operations_that_make_no_sense_are_refused_by_name(budget_of):
    with pytest.raises(UnsupportedOperation, match=r"'contiguous' cannot seq_add\(0, 0, 4, 2\)"):
        policy_of("contiguous", budget_of()).seq_add(0, 0, 4, 2)
