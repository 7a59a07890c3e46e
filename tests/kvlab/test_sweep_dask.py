"""A sweep on a Dask cluster, one of whose workers is killed."""

import os
import signal

import pytest

from kvlab.study.schema import Study
from kvlab.study.sweeping import sweep
from workloads.errors import InputError

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")

STUDY = {
    "workload": "chat",
    "requests": 20,
    "rate": 6.0,
    "max_seqs": 8,
    "seeds": 4,
    "policies": ["ring", "contiguous"],
    "kv_tokens": 4096,
}


def files_of(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_lost_worker_costs_only_what_it_was_running(tmp_path):
    study = Study.of(STUDY)
    whole = sweep(study, tmp_path / "whole", jobs=1)
    killed = []
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        pids = [worker.pid for worker in cluster.workers.values()]

        def kill_one(done: int, total: int) -> None:
            if 0 < done < total and not killed:
                killed.append(done)
                os.kill(pids[0], signal.SIGKILL)

        sweep(study, tmp_path / "out", dask=cluster.scheduler_address, done=kill_one)
        keys = {str(entry[0]) for entry in cluster.scheduler.transition_log}
        assert len([key for key in keys if "outcome_of" in key]) == 8
    assert killed
    assert [path.read_text() for path in (tmp_path / "out").glob("failed/*")] == []
    assert files_of(tmp_path / "out") == files_of(whole.root)


def test_an_address_where_nobody_is_gives_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("kvlab.study.sweeping.DASK_TIMEOUT_S", 0.2)
    with pytest.raises(InputError, match="cannot be reached"):
        sweep(Study.of(STUDY), tmp_path / "out", dask="tcp://127.0.0.1:9")
