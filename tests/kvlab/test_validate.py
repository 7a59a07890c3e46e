"""`kvlab validate`: settings from a run's files, and a measured run where it is at hand."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kvlab.cli import application
from kvlab.validation import validate
from kvlab.vllm_settings import settings_of
from reports.validation import differences
from workloads.errors import InputError

SHARED = Path(os.environ.get("KVLAB_SHARED", Path(__file__).parents[3] / "shared"))
RUN = SHARED / "data" / "vllm_runs" / "RTXPRO6000_Llama-3.1-8B"
with_run = pytest.mark.skipif(not RUN.exists(), reason=f"no measured run at {RUN}")

META = {
    "model": "meta-llama/Llama-3.1-8B",
    "vllm_version": "0.19.0",
    "engine_kwargs": {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "max_model_len": None},
}
INSTANCE = {"hardware": "RTXPRO6000", "npu_mem": {"mem_size": 96, "mem_util": 0.9}}


def write(root, meta=META, instance=INSTANCE):
    (root / "meta.json").write_text(json.dumps(meta))
    if instance is not None:
        cluster = {"nodes": [{"instances": [instance]}]}
        (root / "cluster.json").write_text(json.dumps(cluster))
    return root


def test_settings_of_a_run(tmp_path):
    settings = settings_of(write(tmp_path))
    # 0.9 of 96 GiB less 16.06 GB of weights, in blocks of 16 tokens at 128 KiB.
    assert settings.blocks == 36_578
    assert settings.budget.bytes == 36_579 * 2 * 2**20
    assert (settings.budget.max_seqs, settings.budget.max_batched_tokens) == (128, 2048)
    assert settings.budget.max_model_len == 131_072
    assert settings.hardware.name == "rtx-pro-6000"
    assert settings.is_async and settings.prefix_cache
    assert settings.costs.graph_sizes[-1] == 256 and settings.costs.table_row == 4 * 8192
    assert any("36,578" in note for note in settings.notes)


def test_what_the_engine_reports_goes_before_what_can_be_worked_out(tmp_path):
    kv_cache = {"num_gpu_blocks": 1001, "block_size": 32, "enable_prefix_caching": False}
    resolved = {"scheduler_config": {"async_scheduling": False}}
    engine = META["engine_kwargs"] | {"max_model_len": 4096, "enforce_eager": True}
    meta = META | {"kv_cache": kv_cache, "resolved_config": resolved, "engine_kwargs": engine}
    settings = settings_of(write(tmp_path, meta))
    assert settings.blocks == 1000 and settings.block_size == 32
    assert settings.budget.bytes == 1001 * 4 * 2**20
    assert not settings.is_async and not settings.prefix_cache
    assert settings.costs.graph_sizes == () and settings.costs.table_row == 4 * 128
    assert settings.notes == []
    assert settings_of(tmp_path, kv_blocks=77, hardware="h100").blocks == 77
    meta["engine_kwargs"] = META["engine_kwargs"] | {"kv_cache_memory_bytes": 8 * 2**20}
    meta["kv_cache"] = {}
    assert settings_of(write(tmp_path, meta)).blocks == 3


def test_resolved_settings_stand_in_for_absent_ones(tmp_path):
    resolved = {
        "scheduler_config": {"max_num_seqs": 64, "max_num_batched_tokens": 512},
        "model_config": {"max_model_len": 2048},
        "cache_config": {"block_size": 32},
        "compilation_config": {"cudagraph_capture_sizes": [32, 8, 16]},
    }
    meta = META | {"engine_kwargs": {"max_num_seqs": None}, "resolved_config": resolved}
    settings = settings_of(write(tmp_path, meta))
    budget = settings.budget
    assert (budget.max_seqs, budget.max_batched_tokens, budget.max_model_len) == (64, 512, 2048)
    assert settings.block_size == 32 and settings.costs.table_row == 4 * 64
    assert settings.costs.padded(9) == 16 and settings.costs.padded(33) == 33


def test_gpus_that_share_the_layers(tmp_path):
    assert settings_of(write(tmp_path)).costs.ring.ranks == 1
    write(tmp_path, META | {"engine_kwargs": META["engine_kwargs"] | {"tensor_parallel_size": 2}})
    cluster = {"link_bw": 16, "link_latency": 20_000, "nodes": [{"instances": [INSTANCE]}]}
    (tmp_path / "cluster.json").write_text(json.dumps(cluster))
    settings = settings_of(tmp_path)
    # Twice the memory for the same weights.
    assert settings.blocks == int((0.9 * 96 * 2**30 * 2 - 16_060_522_496) // 2**21)
    ring = settings.costs.ring
    # Two messages there and back, half of the bytes each.
    assert ring.all_reduce(2**24) == pytest.approx(2 * (20e-6 + 2**23 / (16 * 2**30)))
    assert ring.all_gather(2**24) == pytest.approx(20e-6 + 2**23 / (16 * 2**30))


def test_older_engines_schedule_synchronously(tmp_path):
    for version, expected in (("0.13.2", False), ("0.14.0", True), ("dev", False)):
        write(tmp_path, META | {"vllm_version": version})
        assert settings_of(tmp_path).is_async is expected


def test_what_cannot_be_known_is_asked_for(tmp_path):
    with pytest.raises(InputError, match="--kv-blocks"):
        settings_of(write(tmp_path, instance=None))
    settings = settings_of(tmp_path, kv_blocks=10)
    assert any("PCIe 5.0" in note for note in settings.notes)
    for kwargs, complaint in (
        ({"data_parallel_size": 2}, "only runs of one engine"),
        ({"speculative_config": {"method": "ngram"}}, "runs with drafts"),
        ({"tensor_parallel_size": 2}, "expected link_bw"),
    ):
        with pytest.raises(InputError, match=complaint):
            settings_of(write(tmp_path, META | {"engine_kwargs": kwargs}))
    with pytest.raises(InputError, match="expected max_num_seqs"):
        settings_of(write(tmp_path, META | {"engine_kwargs": {}}))


@with_run
def test_a_measured_run_is_predicted():
    both = validate(RUN)
    assert [note.split(",")[0] for note in both.notes] == ["KV blocks: 36"]
    found = differences(both.measured, both.simulated)
    # Published for the measured side: TTFT 7097.2 ms, TPOT 32.5 ms, latency 28200.7 ms.
    for metric, published in (("ttft", 7.0972), ("tpot", 0.0325), ("e2e", 28.2007)):
        assert found[metric]["mean"]["measured"] == pytest.approx(published, rel=2e-3)
    for metric, row in found.items():
        for name, each in row.items():
            allowed = 3.0 if name.startswith("p") else 1.5
            if (metric, name) == ("ttft", "median"):
                allowed = 3.5  # see docs/validation.md
            assert abs(each["diff_percent"]) <= allowed, (metric, name)
    assert both.simulated.output_rate == pytest.approx(both.measured.output_rate, rel=0.01)


def test_switches_that_were_asked_for_or_resolved(tmp_path):
    settings = settings_of(write(tmp_path))
    assert settings.prefix_cache and settings.chunked_prefill
    off = {"enable_prefix_caching": False, "enable_chunked_prefill": False}
    settings = settings_of(write(tmp_path, META | {"engine_kwargs": META["engine_kwargs"] | off}))
    assert not settings.prefix_cache and not settings.chunked_prefill
    resolved = {
        "cache_config": {"enable_prefix_caching": False},
        "scheduler_config": {"enable_chunked_prefill": False},
        "parallel_config": {"data_parallel_size": 2},
    }
    with pytest.raises(InputError, match="data_parallel_size 2"):
        settings_of(write(tmp_path, META | {"resolved_config": resolved}))
    del resolved["parallel_config"]
    settings = settings_of(write(tmp_path, META | {"resolved_config": resolved}))
    assert not settings.prefix_cache and not settings.chunked_prefill


@with_run
def test_a_model_with_experts_is_refused(tmp_path):
    config = {
        **json.loads((RUN / "model_config.json").read_text()),
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 768,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    for path in RUN.iterdir():
        if path.name != "model_config.json":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="has experts"):
        validate(tmp_path)


@with_run
def test_runs_of_steps_do_not_change_it():
    leaps, steps = validate(RUN), validate(RUN, exact_steps=True)
    assert leaps.simulated.last_token.tolist() == steps.simulated.last_token.tolist()


@with_run
def test_under_memory_pressure_all_requests_are_served():
    both = validate(RUN, kv_blocks=3000)
    assert both.simulated.end > both.measured.end
    assert (both.simulated.last_token > both.simulated.first_token).all()


@with_run
def test_two_gpus_take_turns_to_talk(tmp_path):
    """The same kernels on two GPUs, so that only the exchange between them comes on top."""
    root = tmp_path / "run"
    root.mkdir()
    for name in ("requests.jsonl", "model_config.json"):
        (root / name).symlink_to(RUN / name)
    (root / "profile").mkdir()
    (root / "profile" / "tp2").symlink_to(RUN / "profile")
    kwargs = META["engine_kwargs"] | {"tensor_parallel_size": 2}
    (root / "meta.json").write_text(json.dumps(META | {"engine_kwargs": kwargs}))
    cluster = json.loads((RUN / "cluster.json").read_text())
    (root / "cluster.json").write_text(json.dumps(cluster))
    both = validate(root)
    assert any("no prefix" in note for note in both.notes)
    # 65 all-reduces of 128 rows of 8 KiB, one all-gather of 128 rows of logits: 7.5 ms.
    # Steps with a prompt chunk have up to 16 times the rows.
    step = 65 * 2 * (20e-6 + 2**19 / (16 * 2**30)) + 20e-6 + 128 * 128_256 / (16 * 2**30)
    slower = both.simulated.tpot.mean() - validate(RUN).simulated.tpot.mean()
    assert 0.8 * step < slower < 2 * step


@with_run
def test_memory_in_use_is_what_the_engine_reported(tmp_path):
    root = tmp_path / "run"
    root.mkdir()
    for path in RUN.iterdir():
        if path.name not in ("timeseries.csv", "meta.json"):
            (root / path.name).symlink_to(path)
    (root / "meta.json").write_text(json.dumps(META | {"kv_cache": {"num_gpu_blocks": 2001}}))
    (root / "timeseries.csv").write_text("t,kv_cache_pct\n1.0,0.0\n11.0,50.0\n21.0,100.0\n")
    both = validate(root)
    at = np.array([0.0, 6.0, 16.0, 30.0])
    assert both.measured.occupancy(at).tolist() == [0.0, 0.25, 0.75, 0.0]
    # A pool of a tenth of what this traffic asks for is full as long as anybody waits.
    busy = both.simulated.occupancy(np.linspace(20, 60, 50))
    assert 0.9 < busy.mean() <= 1.0 and busy.max() <= 1.0
    (root / "timeseries.csv").write_text("t,running\n1.0,0\n")
    with pytest.raises(InputError, match="expected the column 'kv_cache_pct'"):
        validate(root)


@with_run
def test_the_command_prints_json_or_tables_and_gates(tmp_path):
    runner, app = CliRunner(), application()
    plain = runner.invoke(app, ["validate", str(RUN), "--out", str(tmp_path / "out")])
    assert plain.exit_code == 0
    assert "TTFT from arrival" in plain.output and "36,578" in plain.output
    printed = runner.invoke(app, ["validate", str(RUN), "--json", "--max-error", "0.01"])
    assert printed.exit_code == 1
    assert json.loads(printed.stdout) == json.loads((tmp_path / "out/validation.json").read_text())
