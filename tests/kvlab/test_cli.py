"""The command line as a user meets it: one clear line and the right exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KVLAB = [sys.executable, "-c", "from kvlab.cli import main; main()"]
SMALL = ["--workload", "sharegpt", "--requests", "20", "--kv-tokens", "4096"]


def kvlab(*args: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*KVLAB, *args], capture_output=True, text=True, **options)


def trace(folder: Path, *lines: str) -> str:
    path = folder / "trace.csv"
    path.write_text("\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *lines)) + "\n")
    return f"azure:{path}"


GOOD = "2023-11-16 18:15:46.6805900,374,44"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "lama-3.1-8b"], "did you mean 'llama-3.1-8b'"),
        (["--hardware", "h1000"], "did you mean 'h100'"),
        (["--policies", "pagd"], "did you mean 'paged'"),
        (["--workload", "sharegtp"], "did you mean 'sharegpt'"),
        (["--kv-type", "q8_1"], "q8_0"),
        (["--time-model", "roofine"], "did you mean 'roofline'"),
        (["--kv-tokens", "-5"], "kv_tokens"),
        (["--kv-tokens", "0"], "kv_tokens"),
        (["--rate", "nan"], "rate"),
        (["--rate", "-1"], "rate"),
        (["--rate", "inf"], "rate"),
        (["--requests", "0"], "requests"),
        (["--requests", "x"], "requests"),
        (["--seed", "-1"], "seed"),
        (["--max-seqs", "1000000000000"], "max_seqs"),
        (["--kv-memory", "1000"], "1000 bytes of K/V memory hold no token"),
        (["--kv-memory", "lots"], "kv_memory"),
        (["--policy-option", "contiguous.reserv=max"], "did you mean 'reserve'"),
        (["--policy-option", "reserve=max"], "expected POLICY.KEY=VALUE"),
        (["--policy-option", "contiguous.reserve=most"], "expected one of max, pow2"),
        (["--policy-option", "pagd.x=1"], "not among the policies"),
        (["--workload", "azure:/nowhere.csv"], "/nowhere.csv"),
        (["--workload", "azure"], "expected azure:PATH"),
        (["--workload-option", "user"], "expected KEY=VALUE"),
        (["--scheduler", "fcfs"], "unknown scheduler 'fcfs'"),
        (["--workload", "nowhere.csv"], "'nowhere.csv': there is no such file and no such name"),
        (["--nonsense"], "--nonsense"),
        (["/nowhere.toml"], "/nowhere.toml: cannot be read"),
        (["--policies", "ring,ring"], "named once"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(arguments, expected):
    base = [] if "--workload" in arguments else SMALL[:2]
    policies = [] if "--policies" in arguments else ["--policies", "contiguous"]
    done = kvlab("compare", *base, *policies, "--requests", "5", *arguments)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([GOOD, "2023-11-16 18:15:50.9951690,396"], ":3: "),
        ([GOOD, GOOD, '{"timestamp": 0}'], ":4: "),
        ([GOOD, "2023-11-16 18:15:40.0000000,396,10"], ":3: "),
        ([GOOD, "2023-11-16 18:15:50.0000000,-396,10"], ":3: "),
        ([], "expected"),
    ],
)
def test_damaged_traces_are_named_by_line(tmp_path, lines, expected):
    spec = trace(tmp_path, *lines)
    done = kvlab("compare", "--workload", spec, "--policies", "contiguous", "--kv-tokens", "4096")
    assert done.returncode == 2
    assert f"{tmp_path}/trace.csv" in done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_request_longer_than_the_cache_is_failed_and_counted(tmp_path):
    spec = trace(tmp_path, GOOD, "2023-11-16 18:15:50.9951690,9000,109")
    options = ["--policies", "contiguous,ring", "--kv-tokens", "4096", "--json"]
    done = kvlab("compare", "--workload", spec, *options)
    assert done.returncode == 0, done.stderr
    for summary in json.loads(done.stdout).values():
        assert (summary["requests_completed"], summary["requests_failed"]) == (1, 1)


def test_where_nothing_fits_there_is_a_result_that_says_so(tmp_path):
    out = tmp_path / "out"
    options = ["--policies", "contiguous,paged", "--kv-tokens", "64", "--out", str(out)]
    done = kvlab("compare", "--workload", trace(tmp_path, GOOD), *options)
    assert done.returncode == 0, done.stderr
    assert "No policy finished a request" in done.stdout
    assert (out / "report.html").is_file() and (out / "plots/memory_map.svg").is_file()
    files = ["--perfetto", str(tmp_path / "run.json"), "--prometheus", str(tmp_path / "run.prom")]
    assert kvlab("export", str(out / "paged"), *files).returncode == 0
    assert kvlab("report", str(out)).returncode == 0


def test_json_has_the_promised_names():
    done = kvlab("compare", *SMALL, "--policies", "none,contiguous,ring,paged,iswa", "--json")
    assert done.returncode == 0, done.stderr
    names = set(
        "requests_completed requests_failed makespan_s output_tokens_per_s total_tokens_per_s "
        "goodput_rps kv_utilization_mean kv_utilization_peak internal_fragmentation_mean "
        "external_fragmentation_mean reserved_mean preemptions recomputed_tokens swapped_bytes "
        "cow_bytes defrag_bytes prefix_hit_tokens prefix_hit_rate alloc_failures steps "
        "cpu_s".split()
    )
    for summary in json.loads(done.stdout).values():
        assert names <= summary.keys()
        for latency in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
            assert summary[latency].keys() == {"mean", "p50", "p90", "p95", "p99"}


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        done = kvlab(
            "compare", *SMALL, "--policies", "contiguous,paged", "--out", str(tmp_path / name)
        )
        assert done.returncode == 0, done.stderr
    first = {p.relative_to(tmp_path / "one"): p for p in (tmp_path / "one").rglob("*")}
    assert len(first) > 10
    for name, path in first.items():
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_study_file_is_checked_and_overridden(tmp_path):
    study = tmp_path / "study.toml"
    lines = 'policies = ["contiguous"]\nkv_tokens = 4096\nrequests = 5\n'
    study.write_text(lines + 'worklod = "chat"\n')
    done = kvlab("compare", str(study))
    assert done.returncode == 2
    assert "unknown field 'worklod'; did you mean 'workload'?" in done.stderr
    study.write_text(lines)
    done = kvlab("compare", str(study), "--requests", "7", "--json")
    assert json.loads(done.stdout)["contiguous"]["requests_completed"] == 7


def test_an_unwritable_output_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = kvlab("compare", *SMALL, "--policies", "none", "--out", str(tmp_path / "file"))
    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr
    assert (tmp_path / "file").read_text() == "in the way"


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    process = subprocess.Popen(
        [*KVLAB, *"compare --requests 1000000 --rate 50 --out".split(), str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2.5)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.strip() == "kvlab: interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []


def test_memory_gives_the_worked_examples():
    def total(*args):
        done = kvlab("memory", *args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    shape = ["--layers", "32", "--kv-heads", "8", "--head-dim", "128"]
    assert total(*shape, "--context", "2048", "--kv-type", "int8")["bytes"] == 128 * 2**20
    assert total(*shape, "--context", "32768", "--kv-type", "int8")["bytes"] == 2 * 2**30
    assert total(*shape, "--context", "2048", "--kv-type", "q8_0")["bytes"] == 136 * 2**20
    gemma = total("--model", "gemma-3-27b", "--context", "32768")
    assert gemma["bytes"] == 3184 * 2**20
    assert gemma["bytes_without_windows"] == 15872 * 2**20


LISTS = ["policies", "schedulers", "routers", "models", "hardware", "workloads", "--help"]


@pytest.mark.parametrize("command", LISTS)
def test_lists_and_help_are_quick_and_not_empty(command):
    done = kvlab(command)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5
