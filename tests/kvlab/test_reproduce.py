"""Published results: every experiment meets its target, and what misses one is said."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kvlab.cli import application
from kvlab.reproduce import EXPERIMENTS, experiment_of
from kvlab.reproduce.findings import Claim, Number, Reproduction
from kvlab.reproduce.show import markdown_of, verdict_of
from workloads.errors import InputError

SHARED = Path(os.environ.get("KVLAB_SHARED", Path(__file__).parents[3] / "shared"))
CONVERSATION = SHARED / "data/mooncake_fast25/conversation_trace.jsonl"
QUICK = (
    "kv-memory",
    "gemma3-iswa-memory",
    "jenga-waste",
    "vattention-mapping",
    "streamingllm-window",
    "pagedattention-swap",
)


def invoke(*arguments):
    return CliRunner().invoke(application(), ["reproduce", *map(str, arguments)])


@pytest.mark.parametrize("name", QUICK)
def test_quick_experiments_meet_their_targets(name):
    result = invoke(name, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["met"] and found["left_open"]
    assert found["claims"] or any(number["within"] is not None for number in found["numbers"])


def test_the_list_names_every_experiment_and_the_files_it_needs():
    lines = invoke("--list").stdout
    assert all(name in lines for name in EXPERIMENTS)
    assert "conversation_trace.jsonl" in lines


def test_a_number_is_held_against_a_range_or_a_figure():
    assert Number("x", (6.1, 9.8), 7.0, within=0).difference == 0
    assert Number("x", (6.1, 9.8), 10.0, within=0.2).difference == pytest.approx(0.2)
    assert Number("x", (6.1, 9.8), 10.0, within=0.2).meets
    assert not Number("x", (6.1, 9.8), 5.8, within=0.2).meets
    assert not Number("x", 3.0, 3.2, within=0.1).meets
    assert Number("x", 3.0, 9.0).meets and Number("x", None, 9.0, within=0).meets


def test_what_misses_its_target_is_named_and_changes_the_exit_status(monkeypatch):
    module = experiment_of("kv-memory")
    missing = Reproduction((Number("cells", 3.0, 4.0, within=0.5),), (Claim("c", "d", False),))
    monkeypatch.setattr(module, "reproduce", lambda data: missing)
    result = invoke("kv-memory")
    assert result.exit_code == 1
    assert "The target is missed: cells; c." in result.output
    assert verdict_of(missing) in markdown_of("kv-memory", module, missing)


def test_an_unknown_experiment_gets_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'jenga-waste'"):
        experiment_of("jenga_waste")


def test_pictures_are_written_in_both_formats(tmp_path):
    assert invoke("gemma3-iswa-memory", "--out", tmp_path / "new").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "gemma3-iswa-memory.png",
        "gemma3-iswa-memory.svg",
    ]


def test_mooncake_says_which_files_it_needs(tmp_path):
    for data in (None, tmp_path):
        with pytest.raises(InputError, match=r"conversation_trace.jsonl and synthetic_trace.jsonl"):
            experiment_of("mooncake-fig9").reproduce(data)


def mooncake_line(ids, length):
    row = {"timestamp": 0, "input_length": length, "output_length": 1, "hash_ids": ids}
    return json.dumps(row) + "\n"


def test_mooncake_hits_equal_a_count_by_hand(tmp_path):
    """Blocks 0 1 2, then 0 1 3 (two hits), then 0 1 2 in full: the last block is a part of one."""
    from kvlab.reproduce.mooncake_fig9 import rates_of, replayed, served
    from workloads.spec import workload_of

    lines = [mooncake_line(ids, 1100) for ids in ([0, 1, 2], [0, 1, 3], [0, 1, 2])]
    (tmp_path / "trace.jsonl").write_text("".join(lines))
    workload = workload_of(f"mooncake:{tmp_path / 'trace.jsonl'}")
    requests = list(workload.traffic().arrivals())
    expected = [(0, 1100), (1024, 1100), (1100, 1100)]
    assert list(replayed(requests, None)) == expected
    assert list(served(requests, None)) == expected
    # With room for two blocks the plain list keeps the last two of each prompt.
    assert [hit for hit, _ in replayed(requests, 1024)] == [0, 0, 0]
    assert rates_of(iter(expected)).tokens == pytest.approx(2124 / 3300)


@pytest.mark.skipif(not CONVERSATION.is_file(), reason=f"no Mooncake trace at {CONVERSATION}")
def test_mooncake_is_the_plain_replay_to_a_thousandth(monkeypatch):
    module = experiment_of("mooncake-fig9")
    monkeypatch.setattr(module, "CAPACITIES", module.CAPACITIES[:2])
    file, published = module.TRACES["conversation"]
    monkeypatch.setattr(module, "TRACES", {"conversation": (file, published[:2])})
    monkeypatch.setattr(module, "REQUEST_MEAN", 0.2397)
    found = module.reproduce(CONVERSATION.parent)
    assert not found.missed, found.missed
    assert [round(rate, 4) for rate in found.curves["conversation"]["plain"]] == [0.0542, 0.1382]


def test_published_lengths_have_the_published_means_within_the_limit():
    import numpy as np

    from kvlab.reproduce.lengths import PublishedLengths

    prompts, outputs = PublishedLengths().lengths(np.random.default_rng(1), 100_000)
    assert (prompts + outputs).max() <= 2048
    assert prompts.mean() == pytest.approx(161.31, rel=0.02)
    assert outputs.mean() == pytest.approx(337.99, rel=0.02)


def test_shares_of_a_reservation_are_those_counted_request_by_request():
    """Under Orca (Max) 7 reservations of 2,048 cells are always taken, 8.9 % fit no eighth."""
    from kvlab.reproduce.pagedattention_fig2 import averages, served

    parts, batch = averages("Orca (Max)", served("Orca (Max)", 4.0, requests=120))
    assert sum(parts) == pytest.approx(100)
    assert parts[3] == pytest.approx(100 - 100 * 7 * 2048 / 15728, abs=1.0)
    assert batch == pytest.approx(7, abs=0.1)
    oracle, _ = averages("Orca (Oracle)", served("Orca (Oracle)", 4.0, requests=120))
    assert oracle[2] == 0


def test_a_window_of_all_tokens_is_at_no_distance_and_loses_nothing():
    from backends.choice import backend_of
    from kvlab.reproduce import summary_distortion as module

    rows, backend = module.made(0, 0.5), backend_of("numpy")
    everything = module.window_of(backend, rows, module.TOKENS)
    assert module.distance_of(rows, everything) == pytest.approx(0, abs=1e-6)
    assert module.error_of(backend, rows, everything) == 0
    for way in module.WAYS.values():
        for budget in module.BUDGETS:
            assert len(way(backend, rows, budget).k) == budget


def test_merging_by_halves_keeps_all_mass_and_no_more_cells():
    from backends.choice import backend_of
    from kvlab.reproduce import summary_distortion as module

    rows, backend = module.made(0, 0.5), backend_of("numpy")
    for budget in (32, 128):
        atoms = module.merged_of(backend, rows, budget)
        assert 0.6 * budget <= len(atoms.k) <= budget
        assert atoms.mass.sum(axis=0) == pytest.approx(module.TOKENS)


def test_samples_save_the_full_blocks_of_their_prompt():
    """n samples hold the full blocks of the prompt once; the partial one is copied at once."""
    from kvlab.reproduce.pagedattention_sharing import saved

    for prompt, output, width in ((40, 30, 2), (64, 17, 4), (15, 20, 3)):
        lengths = range(prompt + 1, prompt + output)
        apart = sum(width * -(-length // 16) for length in lengths)
        shared = (width - 1) * (prompt // 16) * len(lengths)
        assert saved([(prompt, output)], width, "samples") == pytest.approx(100 * shared / apart)


def test_beams_that_never_die_are_samples_and_busy_ones_save_more():
    from kvlab.reproduce.pagedattention_sharing import saved

    lengths = [(20, 60), (33, 90)]
    samples = saved(lengths, 4, "samples")
    assert saved(lengths, 4, "beams", turnover=0.0) == samples
    assert samples < saved(lengths, 4, "beams", 0.05) < saved(lengths, 4, "beams", 0.5)


def test_the_nearest_turnover_is_one_that_is_swept():
    from kvlab.reproduce import pagedattention_sharing as module
    from sim.beams import TURNOVER

    assert set(module.NEAREST.values()) <= set(module.TURNOVERS)
    assert TURNOVER == 0.1  # as the text says


def test_least_computed_first_saves_among_mixed_prompts_and_nothing_among_equal_ones():
    from kvlab.reproduce import preemption_tax as module

    mixed, equal = (
        module.Traffic(prompt, "uniform:low=128,high=384", 150)
        for prompt in (module.MIXED_PROMPTS, "constant:tokens=512")
    )
    last, least = (module.waste(mixed, 500, victim, 0) for victim in ("last", "least-computed"))
    assert 0 < least.tokens < last.tokens and least.each < last.each
    assert last.tax == pytest.approx(last.tokens / (last.tokens + 150 * 768), rel=0.05)
    assert module.waste(equal, 500, "last", 0) == module.waste(equal, 500, "least-computed", 0)


def test_large_blocks_cost_where_memory_is_short(monkeypatch):
    from kvlab.reproduce import pagedattention_blocksize as module

    monkeypatch.setitem(module.TRACES, "ShareGPT", ({}, 5.0, 120))
    fair, small, large = (module.latency_of("ShareGPT", block) for block in (32, 1, 512))
    assert fair < small and fair < large


def test_swapping_is_paid_by_the_copy_and_by_the_byte():
    from kvlab.reproduce.pagedattention_swap import clock_of, recomputation, swapping

    clock, free = clock_of(10e-6), clock_of(0.0)
    n_bytes = 2 * 512 * clock.model.token_bytes()
    assert swapping(free, 512, 16) == pytest.approx(n_bytes / clock.hardware.to_host_bandwidth)
    extra = swapping(clock, 512, 16) - swapping(free, 512, 16)
    assert extra == pytest.approx(2 * 2 * 40 * 32 * 10e-6)
    assert recomputation(clock, 512) == recomputation(free, 512)


def test_the_page_holds_what_the_command_prints():
    page = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text("utf-8")
    for name in EXPERIMENTS:
        assert f"## `{name}`" in page
    for name in QUICK:
        module = experiment_of(name)
        assert markdown_of(name, module, module.reproduce(None)).strip() in page
