import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.groups import LayerGroup
from sim.reads import (
    attended,
    attended_by_run,
    attended_in_run,
    cells_read,
    exact_reads,
    exact_reads_of_run,
    pairs_before,
)
from sim.sequence import Sequence
from sim.step import Run
from workloads.request import Request

KINDS = [("full", 0), ("swa", 5), ("swa", 1), ("chunked", 4), ("chunked", 7), ("recurrent", 0)]
groups = st.sampled_from(KINDS).map(lambda kind: LayerGroup(kind[0], (0,), window=kind[1]))


def seen_from(group: LayerGroup, position: int) -> set[int]:
    """The positions that a token attends to, by the definition of each kind."""
    visible = {
        "full": lambda p: True,
        "swa": lambda p: position - p < group.window,
        "chunked": lambda p: p // group.window == position // group.window,
        "recurrent": lambda p: False,
    }[group.kind]
    return {p for p in range(position + 1) if visible(p)}


@given(groups, st.integers(0, 40), st.integers(1, 30))
def test_closed_forms_count_what_the_definition_shows(group, start, n):
    seen = [seen_from(group, position) for position in range(start, start + n)]
    assert [attended(group, p) for p in range(start, start + n)] == [len(s) for s in seen]
    states = min(start, 1) + 1 if group.kind == "recurrent" else 0
    assert cells_read(group, start, n) == len(set().union(*seen)) + states
    pairs = pairs_before(group, start + n) - pairs_before(group, start)
    assert pairs == sum(len(s) for s in seen)


@given(groups, st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 40))
def test_a_run_reads_what_its_steps_read(group, lengths, steps):
    of_run = attended_in_run(group, np.array(lengths), steps)
    assert of_run.tolist() == [
        sum(attended(group, length + step) for length in lengths) for step in range(steps)
    ]
    assert attended_by_run(group, np.array(lengths), steps) == of_run.sum()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 10))
def test_runs_and_steps_give_the_same_reads_for_all_groups(lengths, steps):
    all_groups = tuple(LayerGroup(kind, (0,), window=window) for kind, window in KINDS)
    seqs = [Sequence(i, Request(i, 0.0, 100, 1)) for i in range(len(lengths))]
    together = exact_reads_of_run(all_groups, np.array(lengths), steps)
    for step in range(steps):
        runs = [Run(seq, at + step, 1) for seq, at in zip(seqs, lengths, strict=True)]
        for group, single in enumerate(exact_reads(all_groups, runs)):
            cells, pairs = (
                np.broadcast_to(c, steps) for c in (together[group].cells, together[group].pairs)
            )
            assert (single.cells, single.pairs) == (cells[step], pairs[step])


@pytest.mark.parametrize(("kind", "window"), KINDS)
def test_pairs_of_arrays_and_numbers_agree(kind, window):
    group = LayerGroup(kind, (0,), window=window)
    positions = np.arange(50)
    assert pairs_before(group, positions).tolist() == [pairs_before(group, p) for p in range(50)]
