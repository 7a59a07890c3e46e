"""When sequences pause: once for every preemption, the same in runs of steps and single ones."""

from itertools import pairwise

import pytest

from kvlab.config import RunConfig
from kvlab.running import run
from reports.results import RunResult

LISTS = ("stretches_s", "pauses_s", "pause_kinds")


def crowded(**more) -> RunResult:
    """Sixty requests in memory for four thousand tokens: about one preemption each."""
    setting = {"kv_tokens": 4096, "requests": 60, "rate": 20.0, "seed": 3, "max_model_len": 2048}
    return run(RunConfig.of({"policy": "paged"} | setting | more), with_maps=False)


@pytest.mark.parametrize("kind", ["preempted", "swapped"])
def test_pauses_are_those_of_the_preemptions_in_both_ways_of_stepping(kind, tmp_path):
    options = {"preemption": "swap" if kind == "swapped" else "recompute"}
    result = crowded(scheduler_options=options)
    single = crowded(scheduler_options=options, exact_steps=True)
    for name in LISTS:
        both = (result.requests[name], single.requests[name])
        assert [list(row) for row in both[0]] == [list(row) for row in both[1]]
    assert result.requests["preemptions"].sum() > 20
    for row in result.finished.itertuples():
        first, *_, last = row.stretches_s
        assert (first, last) == (row.arrival_s + row.ttft_s, row.finish_s)
        assert list(row.pause_kinds) == [kind] * row.preemptions
        assert len(row.pauses_s) == 2 * row.preemptions
        assert all(a <= b for a, b in pairwise(row.pauses_s))
        # A pause lies between two stretches, or before the first token.
        breaks = list(zip(row.stretches_s[1:-1:2], row.stretches_s[2::2], strict=True))
        breaks.append((row.arrival_s, first))
        for out, back in zip(row.pauses_s[::2], row.pauses_s[1::2], strict=True):
            assert any(low <= out and back <= high for low, high in breaks)
    result.save(tmp_path / "run")
    loaded = RunResult.load(tmp_path / "run").requests
    for name in LISTS:
        assert [list(row) for row in loaded[name]] == [list(row) for row in result.requests[name]]
