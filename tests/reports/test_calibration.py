"""A calibration's table, plot, and comparison with other people's measurements."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from measured_times import LLAMA
from PIL import Image
from typer.testing import CliRunner

from kvlab.cli import application
from reports.calibration import error_table, write_plot
from reports.calibration_check import pairs_of, write_pairs
from reports.plots.calibration import draw
from reports.style import figure_style
from sim.model_files.lookup import model_of
from sim.timing import calibrations
from sim.timing.attention_tables import DECODE, PREFILL
from sim.timing.calibrations import calibration_path
from workloads.errors import InputError


def point(kernel, seconds, predicted, held_out=False, **params):
    return {
        "kernel": kernel,
        "params": params,
        "terms": {},
        "seconds": seconds,
        "low": 0.9 * seconds,
        "high": 1.2 * seconds,
        "n": 9,
        "predicted": predicted,
        "held_out": held_out,
    }


def decode(seconds, **params):
    params = {"batch": 4, "length": 64, "layout": "table"} | params
    return point("decode bf16", seconds, seconds, **params)


@pytest.fixture
def data():
    return {
        "schema": 1,
        "model": "llama-3.1-8b",
        "device": "a device",
        "date": "2026-01-02T03:04:05+00:00",
        "kv_types": ["bf16"],
        "matrices": [[1, 1, 1]],
        "element_bytes": 2,
        "models": {},
        "errors": {
            "copy": {"points": 1, "median": 0.02, "p95": 0.03, "worst": 0.04},
            "decode bf16": {"points": 0},
        },
        "points": [
            point("copy", 1e-5, 1.1e-5, rows=16, run=4),
            point("copy", 1e-4, 0.9e-4, held_out=True, rows=64, run=4),
            decode(2 * 3.56e-3),
            decode(5e-3, layout="skewed"),
            decode(5e-3, layout="together"),
            decode(5e-3, length=4096),
            point("decode q8_0", 1e-3, 1e-3, batch=4, length=64, layout="table"),
            point("prefill bf16", 0.5 * 3.08e-3, 1e-3, chunk=64, prefix=0),
            point("prefill bf16", 1e-3, 1e-3, chunk=64, prefix=32),
        ],
    }


@pytest.fixture
def tables(tmp_path):
    """Decodes: 1 ms + 10 us a cell; prompts: 1 ms + 1 us a pair."""
    frames = {
        DECODE: [
            {"batch_size": b, "isl": 1, "step": n - 1, "latency": 1 + b * n / 100}
            for b in (1, 16)
            for n in (2, 1024)
        ],
        PREFILL: [
            {"batch_size": 1, "isl": n, "step": 0, "latency": 1 + n * (n + 1) / 2e3}
            for n in range(1, 129)
        ],
    }
    for name, rows in frames.items():
        frame = pd.DataFrame(rows).assign(**LLAMA, window_size=0)
        frame.to_parquet(tmp_path / f"a_{name}.parquet")
    return str(tmp_path / f"a_{DECODE}.parquet")


def test_only_shapes_that_both_have_are_compared(data, tables):
    found = pairs_of(data, model_of("llama-3.1-8b"), tables)
    assert [(pair.kernel, pair.layout, pair.batch, pair.cells) for pair in found] == [
        ("decode bf16", "table", 4, 64),
        ("prefill bf16", "", 1, 64),
    ]
    # 1 ms + 4 x 64 x 10 us, and 1 ms + 64 x 65 / 2 us.
    assert [pair.theirs for pair in found] == pytest.approx([3.56e-3, 3.08e-3])
    assert [pair.ratio for pair in found] == pytest.approx([2.0, 0.5])


def test_every_shape_is_a_row_of_a_file(data, tables, tmp_path):
    write_pairs(pairs_of(data, model_of("llama-3.1-8b"), tables), tmp_path / "shapes.csv")
    assert (tmp_path / "shapes.csv").read_text().splitlines() == [
        "kernel,layout,batch,cells,ours_us,theirs_us,ratio",
        "decode bf16,table,4,64,7120.0,3560.0,2.0",
        "prefill bf16,,1,64,1540.0,3080.0,0.5",
    ]
    with pytest.raises(InputError, match=r"shapes\.csv: cannot be written"):
        write_pairs([], tmp_path / "no folder" / "shapes.csv")


def test_a_calibration_without_a_common_shape_is_refused(data, tables):
    data["points"] = data["points"][:2]
    with pytest.raises(InputError, match="no shape that the calibration has measured too"):
        pairs_of(data, model_of("llama-3.1-8b"), tables)
    data["points"] = [decode(1e-3)]
    with pytest.raises(InputError, match="expected rows of 8 heads"):
        pairs_of(data, model_of("gemma-3-4b"), tables)


def test_the_plot_has_a_panel_a_kernel_and_every_point(data, tmp_path):
    with figure_style():
        figure = draw(data)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["copy: 2.0%", "decode bf16", "decode q8_0", "prefill bf16"]
    drawn = {
        (round(x, 9), round(y, 9))
        for axes in figure.axes
        for line in axes.lines
        if line.get_marker() in "oD"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    assert drawn == {
        (round(row["seconds"], 9), round(row["predicted"], 9)) for row in data["points"]
    }
    write_plot(data, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size[0] == 1400
    with pytest.raises(InputError, match=r"ends in \.png or \.svg"):
        write_plot(data, tmp_path / "plot.pdf")


def test_errors_of_kernels_are_listed(data):
    table = error_table(data)
    assert [list(column.cells) for column in table.columns] == [
        ["copy", "decode bf16"],
        ["1", "0"],
        ["2.0%", ""],
        ["3.0%", ""],
        ["4.0%", ""],
    ]


def test_hardware_lists_what_ships_and_shows_one(data, tables, tmp_path, monkeypatch):
    run = CliRunner().invoke
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(calibrations, "FOLDER", folder)
    assert "no measured calibration ships yet" in run(application(), ["hardware"]).output
    (folder / "dev-llama.json").write_text(json.dumps(data))
    assert calibration_path("dev-llama") == folder / "dev-llama.json"
    listed = run(application(), ["hardware"]).output
    assert "dev-llama" in listed and "2.0%" in listed and "a device" in listed
    plot = tmp_path / "plot.svg"
    shown = run(application(), ["hardware", "dev-llama", "--plot", str(plot), "--against", tables])
    assert shown.exit_code == 0, shown.exception
    assert "2.00" in shown.output and plot.read_bytes().startswith(b"<?xml")
    error = run(application(), ["hardware", "--plot", str(plot)]).exception
    assert isinstance(error, InputError)
