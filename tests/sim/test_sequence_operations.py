"""The sequence operations of contiguous reservations; those of ring and iswa are the engine's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import UnsupportedOperation
from sim.plugins import policy_of
from sim.sequence import Sequence
from workloads.request import Request

ids, positions = st.integers(0, 3), st.integers(-1, 60)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ids, st.integers(1, 60)),
        st.tuples(st.just("rm"), ids, positions, positions),
        st.tuples(st.just("cp"), ids, ids, positions),
        st.tuples(st.just("keep"), ids),
        st.tuples(st.just("restore"), ids, ids),
        st.tuples(st.just("clear")),
    ),
    max_size=30,
)


@given(operations, st.sampled_from(["first", "buddy"]))
def test_contiguous_follows_a_dictionary_of_lengths(budget_of, operations, fit):
    policy = policy_of("contiguous", budget_of(tokens=2048), {"fit": fit, "reserve": "oracle"})
    lengths: dict[int, int] = {}
    for name, *given_ in operations:
        if name == "add" and given_[0] not in lengths:
            seq = Sequence(given_[0], Request(given_[0], 0.0, given_[1], 5))
            assert policy.allocate(seq, given_[1])
            lengths[given_[0]] = given_[1]
        elif name == "rm":
            seq, p0, p1 = given_
            held = lengths.get(seq, 0)
            first, end = max(p0, 0), held if p1 < 0 else min(p1, held)
            possible = first >= end or end == held
            assert policy.seq_rm(seq, p0, p1) == possible
            if possible and first < end:
                lengths[seq] = first
        elif name == "cp":
            src, dst, p1 = given_
            policy.seq_cp(src, dst, 0, p1)
            if src in lengths and src != dst:
                lengths[dst] = lengths[src] if p1 < 0 else min(p1, lengths[src])
        elif name == "keep":
            policy.seq_keep(given_[0])
            lengths = {seq: n for seq, n in lengths.items() if seq == given_[0]}
        elif name == "restore" and given_[0] in lengths:
            assert policy.restore(policy.save(given_[0]), given_[1])
            lengths[given_[1]] = lengths[given_[0]]
        elif name == "clear":
            policy.clear()
            lengths.clear()
        lengths = {seq: n for seq, n in lengths.items() if n}
        for seq in range(4):
            assert policy.seq_pos_max(seq) == lengths.get(seq, 0) - 1
            assert policy.seq_pos_min(seq) == (0 if seq in lengths else -1)
        policy.check_integrity()


def test_what_would_leave_a_hole_is_refused(budget_of):
    policy = policy_of("contiguous", budget_of())
    assert policy.allocate(Sequence(0, Request(0, 0.0, 20, 5)), 20)
    assert not policy.seq_rm(0, 5, 10)
    assert policy.seq_pos_max(0) == 19
    with pytest.raises(UnsupportedOperation, match="starts at position 0"):
        policy.seq_cp(0, 1, 5, -1)
