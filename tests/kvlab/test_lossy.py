"""The `summary` policy from end to end: runs equal single steps, and results say that it loses."""

import pytest
from typer.testing import CliRunner

from kvlab.cli import application
from kvlab.config import RunConfig
from kvlab.running import run
from reports.metrics import VOLATILE

OPTIONS = {"window": 128, "centroids": 32, "sinks": 4}
SETTING = {
    "policy": "summary",
    "policy_options": OPTIONS,
    "kv_tokens": 2000,
    "requests": 60,
    "rate": 30.0,
    "max_model_len": 4096,
}


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-3-1b"])
def test_runs_of_steps_are_single_steps(model):
    config = RunConfig.of(SETTING | {"model": model})
    both = [run(config), run(config.model_copy(update={"exact_steps": True}))]
    one, other = ({k: v for k, v in each.summary.items() if k not in VOLATILE} for each in both)
    assert one == other
    assert (
        both[0].timeline.drop(columns="owners_0").equals(both[1].timeline.drop(columns="owners_0"))
    )
    assert (both[0].owners(0) == both[1].owners(0)).all()
    assert one["moved_bytes"] > 0 and one["requests_failed"] == 0


def test_results_and_lists_say_what_is_lost():
    assert run(RunConfig.of(SETTING)).summary["lossy"] == "old tokens are replaced by centroids"
    assert run(RunConfig.of({"policy": "paged", "requests": 5})).summary["lossy"] == ""
    listed = CliRunner().invoke(application(), ["policies"]).stdout
    assert listed.count("LOSSY: old tokens are replaced by centroids") == 1
