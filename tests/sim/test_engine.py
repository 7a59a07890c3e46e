"""The engine against hand-made event logs, and its decode runs against its single steps."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_clocks import CrookedTime, FlatTime
from step_ends import ends_of

from sim.hardware import hardware_of
from sim.metrics import Objectives, request_columns, summary_of, timeline_columns
from sim.plugins import policy_of, scheduler_of
from sim.simulation import Simulation
from sim.timing.roofline import Roofline
from workloads.errors import InputError
from workloads.request import Request, Traffic, Workload

TICK = 2**-30


@dataclass
class Listed(Workload):
    """Requests as given; a follow-up comes a second after each that has one."""

    requests: list[tuple]
    follow_ups: dict[int, int] | None = None
    name = "listed"

    def traffic(self):
        return ListedTraffic(
            [Request(i, *given) for i, given in enumerate(self.requests)], self.follow_ups or {}
        )


class ListedTraffic(Traffic):
    def __init__(self, requests, follow_ups):
        self._requests = requests
        self._follow_ups = follow_ups

    def arrivals(self) -> Iterator[Request]:
        later = set(self._follow_ups.values())
        return (request for request in self._requests if request.id not in later)

    def completed(self, request, at):
        follow_up = self._follow_ups.get(request.id)
        if follow_up is None:
            return []
        self._requests[follow_up].arrival = at + 1
        return [self._requests[follow_up]]


def simulate(workload, budget, policy="contiguous", model=None, options=None, **simulation):
    """The recorder of a finished run."""
    policy = policy_of(policy, budget, options)
    scheduler = scheduler_of("vllm", policy, simulation.pop("scheduler", None))
    return Simulation(workload, policy, scheduler, model or FlatTime(), **simulation).run().recorder


def test_times_of_one_request_step_by_step(budget_of):
    recorder = simulate(Listed([(0.5, 8, 3)]), budget_of())
    columns = request_columns(recorder)
    # Prefill of 8 tokens: 2 s. Two decode steps of 1.125 s. The first token ends the prefill.
    assert columns["queue_s"][0] == 0.0
    assert columns["ttft_s"][0] == 2.0
    assert columns["e2e_s"][0] == 2.0 + 2 * 1.125
    assert columns["tpot_s"][0] == columns["itl_max_s"][0] == 1.125
    assert ends_of(recorder).tolist() == [2.5, 3.625, 4.75]


def test_an_arrival_during_a_step_is_seen_by_the_next(budget_of):
    for exact_steps in (False, True):
        recorder = simulate(
            Listed([(0.0, 8, 4), (2.0, 8, 1), (2.5, 8, 1)]), budget_of(), exact_steps=exact_steps
        )
        columns = request_columns(recorder)
        rows = dict(zip(columns["request"].tolist(), columns["queue_s"].tolist(), strict=True))
        # Steps: [0, 2] prefill; the arrival at 2.0 is seen at 2.0, that at 2.5 at the next end.
        assert rows == {0: 0.0, 1: 0.0, 2: 2.0 + (1 + 9 / 8) - 2.5}


class Doubled(Roofline):
    """Every step takes twice as long."""

    def seconds(self, work):
        return 2 * super().seconds(work)


def test_a_roofline_of_ones_own_prices_runs_as_it_prices_steps(budget_of):
    budget, sheet, workload = budget_of(), hardware_of("h100"), Listed([(0.0, 8, 50)])
    plain = ends_of(simulate(workload, budget, model=Roofline(budget, sheet)))
    runs, steps = (
        ends_of(simulate(workload, budget, model=Doubled(budget, sheet), exact_steps=exact))
        for exact in (False, True)
    )
    assert runs.tolist() == steps.tolist()
    assert runs == pytest.approx(2 * plain, abs=50 * TICK)


def test_prompts_are_cut_at_the_token_budget(budget_of):
    recorder = simulate(Listed([(0.0, 300, 1)]), budget_of(max_batched_tokens=128))
    assert ends_of(recorder).tolist() == [17.0, 34.0, 34.0 + 1 + 44 / 8]


def test_a_request_that_never_fits_fails_and_the_others_go_on(budget_of):
    budget = budget_of(tokens=256, max_model_len=1000)
    recorder = simulate(Listed([(0.0, 8, 2), (0.0, 500, 2), (1.0, 8, 2)]), budget)
    assert recorder.rows.column("status") == ["failed", "finished", "finished"]
    assert recorder.rows.column("reason")[0] == "does not fit into the empty cache"
    recorder = simulate(Listed([(0.0, 500, 2)]), budget_of(tokens=2000, max_model_len=400))
    (reason,) = recorder.rows.column("reason")
    assert reason == "longer than the longest sequence allowed (400 tokens)"


def test_follow_ups_come_after_their_predecessor_also_if_it_failed(budget_of):
    budget = budget_of(tokens=256, max_model_len=1000)
    workload = Listed([(0.0, 500, 2), (9.0, 8, 1)], follow_ups={0: 1})
    columns = request_columns(simulate(workload, budget))
    assert columns["arrival_s"].tolist() == [0.0, 1.0]
    assert columns["status"] == ["failed", "finished"]


def test_arrivals_out_of_order_are_refused(budget_of):
    with pytest.raises(InputError, match="out of order"):
        simulate(Listed([(5.0, 8, 1), (1.0, 8, 1)]), budget_of())


def test_samples_share_the_prompt_and_come_back_one_by_one(budget_of):
    request = (0.0, 40, 5, None, None, 0, 3)
    shared = simulate(Listed([request]), budget_of(), policy="ring")
    assert shared.counts["computed_tokens"] == 40 + 3 * 4
    assert shared.counts["output_tokens"] == 15
    assert sorted(shared.rows.column("sample")) == [0, 1, 2]
    assert shared.samples.rows[-1]["shared_bytes"] > 0
    alone = simulate(Listed([request]), budget_of(), policy="none")
    assert alone.counts["output_tokens"] == 15


def test_preempted_tokens_are_counted_as_recomputed(budget_of):
    budget = budget_of(tokens=256, max_seqs=2)
    recorder = simulate(Listed([(0.0, 100, 60), (0.0, 100, 60)]), budget, policy="ring")
    assert recorder.counts["preemptions"] == 1
    # The first is ahead by a token, since the second prompt took two steps: when all 256 cells
    # are full they hold 129 and 127. The second gives way, and later computes its tokens again.
    again = int(recorder.rows.column("recomputed_tokens")[-1])
    assert again == recorder.counts["recomputed_tokens"] == 127
    assert recorder.counts["computed_tokens"] == 2 * 159 + again


def test_swapping_takes_the_link_and_recomputes_nothing(budget_of):
    budget = budget_of(tokens=256, max_seqs=2)
    workload = Listed([(0.0, 100, 60), (0.0, 100, 60)])
    recorder = simulate(workload, budget, policy="ring", scheduler={"preemption": "swap"})
    assert recorder.counts["preemptions"] == 1
    assert recorder.counts["recomputed_tokens"] == 0
    assert recorder.counts["swapped_bytes"] > 0
    gaps = np.diff(ends_of(recorder))
    assert gaps.max() >= 2.0


requests = st.lists(
    st.tuples(st.floats(0, 1.5), st.integers(1, 200), st.integers(1, 80)), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    requests,
    st.sampled_from(["none", "contiguous", "ring", "iswa", "paged", "radix"]),
    st.sampled_from(["full", "windowed", "chunked"]),
    st.sampled_from(
        [{}, {"preemption": "swap"}, {"policy": "priority"}, {"long_prefill_threshold": 16}]
    ),
    st.sampled_from([300, 2000]),
)
def test_runs_of_steps_give_the_same_bits_as_single_steps(
    budget_of, requests, policy, kind, scheduler, tokens
):
    workload = Listed(sorted(requests))
    results = []
    for exact_steps in (False, True):
        recorder = simulate(
            workload,
            budget_of(kind, tokens=tokens, max_batched_tokens=64),
            policy,
            CrookedTime(),
            scheduler=scheduler,
            exact_steps=exact_steps,
            with_maps=True,
        )
        columns = request_columns(recorder)
        summary = summary_of(recorder, columns, {"default": Objectives()})
        results.append(repr((columns, summary, timeline_columns(recorder))))
    assert results[0] == results[1]


def test_long_runs_keep_a_bounded_timeline(budget_of):
    recorder = simulate(Listed([(i * 40.0, 8, 30) for i in range(60)]), budget_of())
    rows = recorder.samples.rows
    assert 200 <= len(rows) < 512
    times = np.array([row["time_s"] for row in rows])
    assert (np.diff(times) > 0).all()
    assert all(
        row["live_bytes"] + row["reserved_bytes"] + row["internal_bytes"] + row["free_bytes"]
        == row["capacity_bytes"]
        for row in rows
    )
