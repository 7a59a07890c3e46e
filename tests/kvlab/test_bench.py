"""`kvlab bench`: what is made of the measured times, and one case from end to end."""

import json

from typer.testing import CliRunner

from kvlab.benchmark.measure import rows_of
from kvlab.cli import application


def run(cpu_s, **counted):
    counts = {"requests": 10, "output_tokens": 100, "events": 40, "peak_bytes": 2**20}
    return {"cpu_s": cpu_s} | counts | counted


def test_rates_ratios_and_spreads():
    found = {
        "run/chat/ring": [run(2.0), run(4.0), run(5.0)],
        "leap/chat/ring/leaps": [run(1.0)],
        "leap/chat/ring/steps": [run(6.0)],
        "growth/chat/ring/1x": [run(0.5)],
        "growth/chat/ring/4x": [run(3.0)],
        "churn/ring/4096/50%": [{"cpu_s": 0.5, "operations": 200}],
    }
    rows = {row.name: row for row in rows_of(found)}
    assert rows["run/chat/ring/requests"].value == 10 / 4
    assert rows["run/chat/ring/cpu"].value == 4.0
    assert rows["run/chat/ring/cpu"].spread == 1.5
    assert rows["run/chat/ring/peak_memory"].value == 1.0
    assert rows["leap/chat/ring/speedup"].value == 6.0
    assert rows["growth/chat/ring/4x"].value == 6.0
    assert rows["churn/ring/4096/50%/operations"].value == 400
    assert not rows["run/chat/ring/events"].smaller_is_better


def test_one_case_in_a_process_of_its_own():
    asked = "bench --what leaps --policies contiguous --requests 20 --repeats 1 --format bmf"
    done = CliRunner().invoke(application(), asked.split())
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["leap/chat/contiguous"]["speedup"]["value"] > 0
    assert "kvlab" in done.stderr


def test_a_case_that_cannot_be_run_says_why():
    done = CliRunner().invoke(application(), "bench --what leaps --policies ringg".split())
    assert "ringg" in str(done.exception)
