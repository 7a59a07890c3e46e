"""Tiers against times and hits worked out by hand, and against their own single steps."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_clocks import FlatTime

from sim.budget import Budget
from sim.cluster.simulation import ClusterSimulation, FinishedCluster, Parts, Plan
from sim.cluster.tiered import TieredPaged
from sim.cluster.tiers import Pools, TierPlan, Tiers
from sim.metrics import request_columns, timeline_columns
from sim.model_files.lookup import model_of
from sim.plugins import scheduler_of
from sim.policies.paged import Paged
from workloads.errors import InputError
from workloads.request import Request, Traffic, Workload

CHUNK = 8


@dataclass
class Listed(Workload, Traffic):
    """Fields of `Request` after the id."""

    requests: list[dict[str, Any]]
    name = "listed"

    def traffic(self) -> Traffic:
        return self

    def arrivals(self) -> Iterator[Request]:
        return (Request(i, **given) for i, given in enumerate(self.requests))


def ask(arrival: float, prompt: int, output: int = 1, shared: int = 0, private: int = 0):
    """``shared`` leading tokens on branch 1, the rest on the branch ``private``."""
    path = ((1, shared),) if shared else ()
    if prompt + output > shared:
        path += ((private, prompt + output),)
    return {"arrival": arrival, "prompt": prompt, "output": output, "path": path}


def simulate(requests, budget, plans, replicas=1, exact_steps=False, **options) -> FinishedCluster:
    pools = Pools()

    def make(env) -> Parts:
        tiers = Tiers(env, budget, plans, CHUNK, pools)
        policy = TieredPaged(budget, Paged.Options(block_size=4, **options), tiers)
        return Parts(policy, scheduler_of("vllm", policy), FlatTime(swap_s=0.0), tiers)

    plan = Plan(replicas=replicas)
    return ClusterSimulation(Listed(requests), make, plan, exact_steps=exact_steps).run()


def finishes(run: FinishedCluster) -> list[float]:
    columns = request_columns(run.recorder)
    return columns["finish_s"][np.argsort(columns["request"])].tolist()


def tier(budget, name: str, chunks: int, seconds: float) -> TierPlan:
    """So many chunks; a chunk takes so long."""
    size = CHUNK * budget.model.token_bytes()
    return TierPlan(name, chunks * size, size / seconds, size / seconds)


def test_a_prefix_comes_from_the_host_when_the_device_has_lost_it(budget_of) -> None:
    # Blocks for 40 tokens and the null block. A chunk takes a quarter of a second.
    budget = budget_of(tokens=44)
    plans = [tier(budget, "host", 100, 0.25)]
    requests = [
        ask(0.0, 20, shared=16, private=2),
        ask(10.0, 40, private=3),
        ask(30.0, 20, shared=16, private=4),
        ask(50.0, 20, shared=16, private=5),
    ]
    run = simulate(requests, budget, plans)
    # 0: prefill of 20 tokens, 3.5 s; then two chunks are written, until 4.
    # 1: 40 tokens, 6 s. It takes all of the device's blocks; its five chunks are written by 17.25.
    # 2: both chunks of the prefix are loaded, half a second; 4 tokens are computed in 1.5 s.
    # 3: the device has the prefix again: 1.5 s.
    assert finishes(run) == [3.5, 16.0, 32.0, 51.5]
    size = CHUNK * budget.model.token_bytes()
    device, host = run.summary["tiers"]
    assert (device["hit_tokens"], device["hit_rate"]) == (16, 16 / 100)
    assert (host["hit_tokens"], host["hit_rate"]) == (16, 16 / 100)
    assert (host["read_bytes"], host["written_bytes"]) == (2 * size, 7 * size)
    assert (host["peak_bytes"], host["evicted_bytes"]) == (7 * size, 0)
    hits = request_columns(run.recorder)["prefix_hit_tokens"]
    assert hits.tolist() == [0, 0, 16, 16]


def test_what_has_not_arrived_is_not_found(budget_of) -> None:
    budget = budget_of(tokens=44)
    # A chunk takes 8 s: the prefix is on the host at 3.5 + 16 = 19.5.
    requests = [ask(0.0, 20, shared=16, private=2), ask(4.0, 40, private=3)]
    late = simulate(
        [*requests, ask(19.0, 20, shared=16, private=4)], budget, [tier(budget, "host", 9, 8)]
    )
    assert finishes(late)[2] == 22.5
    # The chunks of the second request are on the link too, from 10 on. Of the first transfer 9.5 s
    # are left then, and at half the speed they take 19.
    soon = simulate(
        [*requests, ask(29.0, 20, shared=16, private=4)], budget, [tier(budget, "host", 9, 8)]
    )
    assert finishes(soon)[2] == 29 + 16 + 1.5


def test_the_host_forgets_and_the_disk_does_not(budget_of) -> None:
    budget = budget_of(tokens=44)
    plans = [tier(budget, "host", 2, 0.25), tier(budget, "disk", 100, 0.5)]
    requests = [
        ask(0.0, 20, shared=16, private=2),
        ask(10.0, 40, private=3),
        ask(30.0, 20, shared=16, private=4),
        ask(40.0, 40, private=6),
        ask(60.0, 20, shared=16, private=5),
    ]
    run = simulate(requests, budget, plans)
    # 2: the host has the last two chunks of request 1 only. From the disk a second, through the
    # host half a second; then 1.5 s. They stay on the host until request 3 is written.
    assert finishes(run) == [3.5, 16.0, 33.0, 46.0, 63.0]
    device, host, disk = run.summary["tiers"]
    assert (device["hit_tokens"], host["hit_tokens"], disk["hit_tokens"]) == (0, 0, 32)
    size = CHUNK * budget.model.token_bytes()
    assert disk["read_bytes"] == host["read_bytes"] == 4 * size
    assert host["evicted_bytes"] == (5 + 2 + 5 + 2) * size


def test_the_last_token_is_always_computed(budget_of) -> None:
    budget = budget_of(tokens=44)
    requests = [
        ask(0.0, 16, shared=17),
        ask(10.0, 40, private=3),
        ask(30.0, 16, shared=17),
    ]
    run = simulate(requests, budget, [tier(budget, "host", 100, 0.25)])
    assert finishes(run)[2] == 30 + 0.5 + 1.125
    assert run.summary["tiers"][1]["hit_tokens"] == 15


def test_every_replica_has_tiers_of_its_own(budget_of) -> None:
    budget = budget_of(tokens=44)
    requests = [ask(0.0, 20, shared=16, private=2), ask(10.0, 20, shared=16, private=4)]
    run = simulate(requests, budget, [tier(budget, "host", 100, 0.25)], replicas=2)
    assert finishes(run) == [3.5, 13.5]
    assert [each["tiers"][1]["hit_tokens"] for each in run.summary["replicas"]] == [0, 0]


@pytest.mark.parametrize(("shares_link", "end"), [(False, 12.0), (True, 12.5)])
def test_replicas_find_what_others_have_written(budget_of, shares_link, end) -> None:
    budget = budget_of(tokens=44)
    plan = replace(tier(budget, "shared", 100, 0.25), shared=True, shares_link=shares_link)
    requests = [
        ask(0.0, 20, shared=16, private=2),
        ask(10.0, 20, shared=16, private=3),
        ask(10.0, 20, shared=16, private=4),
    ]
    run = simulate(requests, budget, [plan], replicas=3)
    # 0: as above, both chunks are there at 4. The other two replicas load them at the same time,
    # half a second over a link of their own, twice that over one that they share; 4 tokens take
    # 1.5 s.
    assert finishes(run) == [3.5, end, end]
    device, shared = run.summary["tiers"]
    size = CHUNK * budget.model.token_bytes()
    assert (device["hit_tokens"], shared["hit_tokens"]) == (0, 32)
    assert shared["hit_rate"] == 32 / 60
    assert (shared["bytes"], shared["peak_bytes"]) == (100 * size, 2 * size)
    assert (shared["read_bytes"], shared["written_bytes"]) == (4 * size, 2 * size)
    found = [each["tiers"][1]["hit_tokens"] for each in run.summary["replicas"]]
    assert found == [0, 16, 16]


def test_one_tier_may_be_shared_and_the_other_not(budget_of) -> None:
    budget = budget_of(tokens=44)
    plans = [
        tier(budget, "host", 100, 0.25),
        replace(tier(budget, "disk", 100, 0.5), shared=True, shares_link=True),
    ]
    requests = [
        ask(0.0, 20, shared=16, private=2),
        ask(10.0, 20, shared=16, private=3),
        ask(20.0, 40, private=4),
        ask(30.0, 40, private=5),
        ask(50.0, 20, shared=16, private=6),
        ask(60.0, 20, shared=16, private=7),
    ]
    run = simulate(requests, budget, plans, replicas=2)
    # Replica 1 has the prefix from the disk at first (1 s, then half a second to the device), and
    # when its device has lost it from its own host, as replica 0 has.
    assert finishes(run) == [3.5, 13.0, 26.0, 36.0, 52.0, 62.0]
    hits = {each["name"]: each["hit_tokens"] for each in run.summary["tiers"]}
    assert hits == {"device": 0, "host": 32, "disk": 16}
    size = CHUNK * budget.model.token_bytes()
    assert [each["bytes"] for each in run.summary["tiers"][1:]] == [200 * size, 100 * size]


def test_what_nobody_shares_is_not_found_in_a_shared_tier(budget_of) -> None:
    """Requests without a path are nobody else's, whatever their numbers on their replicas."""
    budget = budget_of(tokens=44)
    plan = replace(tier(budget, "shared", 100, 0.25), shared=True)
    requests = [{"arrival": 10.0 * i, "prompt": 20, "output": 1} for i in range(4)]
    run = simulate(requests, budget, [plan], replicas=2)
    assert finishes(run) == [3.5, 13.5, 23.5, 33.5]
    assert run.summary["tiers"][1]["hit_tokens"] == 0
    assert run.summary["tiers"][1]["written_bytes"] == 8 * CHUNK * budget.model.token_bytes()


def test_what_cannot_have_tiers(budget_of) -> None:
    budget = budget_of()
    with pytest.raises(InputError, match="the host tier of 1 bytes holds no chunk"):
        simulate([], budget, [TierPlan("host", 1, 1.0, 1.0)])
    with pytest.raises(InputError, match="windowed has layers that are not cached in full"):
        windowed = budget_of("windowed")
        simulate([], windowed, [tier(windowed, "host", 9, 1)])
    with pytest.raises(InputError, match=r"mamba-2\.8b keeps states, no tokens to store"):
        states = Budget(model_of("mamba-2.8b"), bytes=1 << 30)
        simulate([], states, [TierPlan("host", 1 << 30, 1.0, 1.0)])


@settings(max_examples=16, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(1, 60), st.integers(1, 30)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from(["none", "host", "disk", "both"]),
)
def test_runs_of_steps_give_the_same_bits_as_single_steps(
    budget_of, given, chunks, whole, shared
) -> None:
    budget = budget_of(tokens=140)
    host, disk = tier(budget, "host", chunks, 0.3), tier(budget, "disk", 3 * chunks, 0.7)
    plans = [
        replace(host, shared=shared in ("host", "both")),
        replace(disk, shared=shared in ("disk", "both"), shares_link=shared == "disk"),
    ]
    requests, now = [], 0.0
    for i, (gap, family, prompt, output) in enumerate(given):
        now += gap
        path = ((family, min(24, prompt + output)), (100 + i, prompt + output))
        path = path[: 1 + (prompt + output > 24)]
        requests.append({"arrival": now, "prompt": prompt, "output": output, "path": path})
    runs = [
        simulate(requests, budget, plans, 2, exact, reserve_full_isl=whole)
        for exact in (False, True)
    ]
    first, second = ((request_columns(r.recorder), timeline_columns(r.recorder)) for r in runs)
    np.testing.assert_equal(first, second)
    assert runs[0].summary == runs[1].summary
    for replica in runs[0].summary["replicas"]:
        found = sum(level["hit_tokens"] for level in replica["tiers"])
        assert found == replica["prefix_hit_tokens"]
        for level in replica["tiers"][1:]:
            assert level["peak_bytes"] <= level["bytes"]
