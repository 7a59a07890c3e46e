from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from reports.metrics import DISTRIBUTIONS, METRICS, NO_VALUE, STATISTICS, metric, three_digits
from reports.table import TABLES, column_of, markdown, tables_of, terminal


def marks(name, *values):
    summaries = {str(index): {name: value} for index, value in enumerate(values)}
    return [cell.best for cell in column_of(metric(name), summaries)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (0.5, "0.500"),
        (1, "1.00"),
        (99.96, "100"),
        (123.4, "123"),
        (999.7, "1,000"),
        (1234.5, "1,234"),
        (1_234_567.0, "1,234,567"),
        (0.00001234, "1.23e-05"),
    ],
)
def test_three_digits(value, text):
    assert three_digits(value) == text


def test_best_follows_the_direction_of_the_metric():
    assert marks("goodput_rps", 1.0, 3.0, 2.0) == [False, True, False]
    assert marks("reserved_mean", 0.1, 0.3, 0.2) == [True, False, False]
    assert marks("kv_utilization_mean", 0.1, 0.3, 0.2) == [False] * 3


def test_what_looks_equal_is_equal():
    assert marks("goodput_rps", 1.0001, 1.0002, 0.5) == [True, True, False]
    assert marks("goodput_rps", 1.0001, 1.0002) == [False, False]


def test_no_value_is_never_best():
    assert marks("goodput_rps", None, 0.0) == [False, True]
    assert marks("goodput_rps", None, None) == [False, False]
    assert column_of(metric("goodput_rps"), {"a": {"goodput_rps": None}})[0].text == NO_VALUE


def test_statistics_and_units():
    summary = {"tpot_s": {"p99": 0.01234}}
    assert metric("tpot_s.p99").value_of(summary) == 0.01234
    assert metric("tpot_s.p99").text_with_unit(0.01234) == "12.3 ms"
    assert metric("reserved_mean").text_with_unit(0.1234) == "12.3 %"
    assert metric("swapped_bytes").text_with_unit(3 * 2**30) == "3.00 GiB"
    assert metric("ttft_s.p50").label == "TTFT p50"


def test_every_column_is_a_metric_that_runs_have(make_run):
    run = make_run(requests=20)
    for names in TABLES.values():
        for name in names:
            assert metric(name).value_of(run.summary) is not None
    assert {f"{d}.{s}" for d in DISTRIBUTIONS for s in STATISTICS} > {"ttft_s.p99"}
    assert all(m.meaning.endswith(".") for m in METRICS.values())


def render(summaries, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(terminal(summaries))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [100, 120])
def test_terminal_fits_with_large_numbers(make_run, width):
    run = make_run(requests=50)
    large = run.summary | {
        "requests_completed": 1_234_567,
        "requests_failed": 12_345,
        "output_tokens_per_s": 123_456.0,
        "recomputed_tokens": 123_456_789,
        "preemptions": 1_234_567,
        "ttft_s": dict.fromkeys(STATISTICS, 12_345.6),
    }
    names = ("contiguous-with-a-very-long-name", "[red]x")
    text = render(dict.fromkeys(names, large), width)
    assert max(map(len, text.splitlines())) <= width
    assert "123,456,789" in text and "1,234,567" in text and "12,345" in text
    assert "[red]x" in text
    assert "…" not in text


def test_terminal_marks_best_and_failed_without_colour(make_run):
    text = render({"good": make_run().summary, "bad": make_run(finish=False).summary}, 100)
    (good,) = [line for line in text.splitlines() if "good" in line and "60*" in line]
    assert "0*" in good
    assert "bad †" in text and "some requests failed" in text


def test_markdown_escapes_names(make_run):
    text = markdown({"a|<script>": make_run().summary, "b": make_run(finish=False).summary})
    assert "a\\|&lt;script&gt;" in text and "<script>" not in text
    assert "**60**" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines[:4]}) == 1


def test_column_that_nobody_knows_is_left_out(make_run):
    stored = {k: v for k, v in make_run().summary.items() if k != "cpu_s"}
    assert "CPU" not in [c.label for t in tables_of({"a": stored}) for c in t.columns]


def test_tables_and_verdicts_start_fast():
    code = (
        "import sys, reports.table, reports.verdict;"
        "print(sorted({'matplotlib', 'pandas', 'pyarrow', 'jinja2'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
