"""Every built-in policy, carried out on real rows, gives what the dense reference gives."""

from __future__ import annotations

import pytest

from backends.verification.scenarios import GENERAL, scenarios_of
from backends.verify import TOLERANCE
from workloads.errors import InputError

POLICIES = ("none", "contiguous", "ring", "iswa", "hybrid", "paged", "radix", "summary")
TYPED = ("paged",)
"""Policies for which every type of K and V is tried; storing is the same for all."""
FEW = ("radix", "summary")
"""Policies for which the scenarios made for them are tried, and those of shared prefixes."""


def is_tried(policy: str, name: str) -> bool:
    """All of them together take `kvlab verify` a minute; here some stand for others."""
    if name.startswith("type"):
        return policy in TYPED
    is_general = any(name == each.name for each in GENERAL)
    return policy not in FEW or not is_general or name.startswith("shared")


@pytest.mark.parametrize(
    ("policy", "scenario"),
    [
        pytest.param(policy, scenario, id=f"{policy}-{scenario.name.replace(' ', '_')}")
        for policy in POLICIES
        for scenario in scenarios_of(policy)
        if is_tried(policy, scenario.name)
    ],
)
def test_rows_are_where_the_policy_says(policy, scenario):
    try:
        made = scenario.policy(policy)
    except InputError as refusal:
        pytest.skip(f"{policy} refuses: {refusal}")
    report = scenario.run(made)
    assert report.failures == []
    assert report.passed and report.error < TOLERANCE / 10
    assert report.unchecked < report.outputs / 10
    assert report.sequences > report.refused


def test_scenarios_make_policies_move_rows():
    """What verification covers is covered: copies, shifts, swaps and refusals do happen."""
    counts = dict.fromkeys(("copied", "shifted", "swapped"), 0)
    for policy, wanted in (
        ("contiguous", "growing, compaction, swap"),
        ("ring", "context shift"),
    ):
        scenario = next(each for each in scenarios_of(policy) if each.name == wanted)
        report = scenario.run(scenario.policy(policy))
        for name in counts:
            counts[name] += getattr(report, name)
    assert all(counts.values()), counts
