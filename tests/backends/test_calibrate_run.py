"""A calibration from the first point to the file that a simulation reads."""

from __future__ import annotations

import json

import numpy as np
import pytest

from backends.arrays import Backend
from backends.calibrate import plan, run
from backends.calibrate.benches import Benches
from backends.calibrate.journal import Journal
from backends.calibrate.plan import Extent, matrices_of, points_of
from backends.calibrate.point import Point, Sample
from backends.calibrate.timing import Effort, timed
from backends.verification.models import checking_model
from sim.budget import Budget
from sim.hardware import hardware_of
from sim.model_files.lookup import model_of
from sim.step import Reads, Work
from sim.timing.calibration import Calibration
from workloads.errors import InputError

MODEL = checking_model("swa")
TINY = Extent(
    cells=1024,
    copied=(1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 19),
    square=(16, 32, 48, 64, 96),
    rows=(16, 64),
    batches=(1, 4),
    lengths=(32, 64),
    chunks=(8, 16, 32),
    prefixes=(0, 32),
    tokens=(1, 4, 16),
    widest=128,
)
POINTS = points_of(MODEL, ["f16"], TINY)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(run, "EXTENTS", {("numpy", True): TINY})
    monkeypatch.setattr(run, "QUICK", Effort(repeats=3, warmup=0, seconds=0.001))
    return run.Request(MODEL, quick=True, date="2000-01-01")


@pytest.fixture(scope="module")
def known(measured):
    """The same with costs that are known: so small a measurement may find any of them to be 0."""
    data = json.loads(measured.read_text())
    for model in data["models"].values():
        model["fixed"] = 1e-6
        model["sums"] = dict.fromkeys(model["sums"], 1e-7)
        model["limits"] = dict.fromkeys(model["limits"], 1e-10)
    path = measured.with_name("known.json")
    path.write_text(json.dumps(data))
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A calibration file of the small model."""
    out = tmp_path_factory.mktemp("calibrated") / "cpu.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "EXTENTS", {("numpy", True): TINY})
        patch.setattr(run, "QUICK", Effort(repeats=3, warmup=0, seconds=0.001))
        run.calibrate(run.Request(MODEL, quick=True, date="2000-01-01"), out)
    return out


def test_the_file_says_what_was_measured(measured):
    data = json.loads(measured.read_text())
    assert data["schema"] == 1 and data["date"] == "2000-01-01" and data["backend"] == "numpy"
    assert data["device"] and data["versions"]["numpy"] == np.__version__
    assert len(data["points"]) == len(POINTS)
    for row in data["points"]:
        assert 0 < row["low"] <= row["seconds"] <= row["high"]
    assert set(data["models"]) == {point.kernel for point in POINTS} - {"mixed f16"}
    assert data["errors"]["mixed f16"]["points"] == sum("mixed" in p.kernel for p in POINTS)
    for model in data["models"].values():
        assert model["fixed"] >= 0
        assert all(cost >= 0 for cost in [*model["sums"].values(), *model["limits"].values()])
    assert not measured.with_name("cpu.json.journal").exists()


def test_an_interrupted_run_goes_on_where_it_was(tiny, tmp_path):
    out, seen = tmp_path / "cpu.json", []

    def stop_at_ten(done, points, key):
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.calibrate(tiny, out, stop_at_ten)
    journal = out.with_name("cpu.json.journal")
    lines = journal.read_text().splitlines()
    assert len(lines) == 11 and not out.exists()
    journal.write_text("\n".join(lines)[:-7])  # killed while it wrote the last line
    timed_now = run.timed

    def counting(*args):
        seen.append(1)
        return timed_now(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "timed", counting)
        data = run.calibrate(tiny, out)
    assert len(seen) == len(POINTS) - 9
    kept = json.loads(lines[1])
    assert (
        next(row for row in data["points"] if row["params"] == kept["params"])["seconds"]
        == kept["seconds"]
    )


def test_a_journal_of_something_else_is_refused(tiny, tmp_path):
    out = tmp_path / "cpu.json"
    Journal(tmp_path / "cpu.json.journal", {"model": "another"})
    with pytest.raises(
        InputError, match=r"cpu.json.journal: line 1: left by a calibration of somet"
    ):
        run.calibrate(tiny, out)
    with pytest.raises(InputError, match="no such folder"):
        run.calibrate(tiny, tmp_path / "nowhere" / "cpu.json")


def test_journal_keeps_every_point_that_was_added(tmp_path):
    sample = Sample(Point.of("memcpy", bytes=8), {"bytes": 16}, 1.5, 1.0, 2.0, 7)
    Journal(tmp_path / "j", {"a": [1]}).add(sample)
    again = Journal(tmp_path / "j", {"a": [1]})
    assert again.samples == {sample.point.key: sample}


@pytest.mark.parametrize(("backend", "quick"), plan.EXTENTS)
def test_points_are_distinct_and_fit_into_the_store(backend, quick):
    extent = plan.EXTENTS[backend, quick]
    points = points_of(model_of("llama-3.1-8b"), ["f16", "q8_0"], extent)
    assert len({point.key for point in points}) == len(points)
    for point in points:
        params = dict(point.params)
        if point.kernel.startswith("decode"):
            assert params["batch"] * params["length"] <= extent.cells // 2
        if point.kernel.startswith("prefill"):
            assert params["chunk"] + params["prefix"] < extent.cells // 2
        if point.kernel == "copy":
            assert 2 * params["rows"] <= extent.cells


def test_every_bench_reads_the_cells_that_its_terms_count():
    benches = Benches(Backend(), MODEL, TINY)
    for point in POINTS:
        works, found = benches.of(point)
        assert works and all(
            np.isfinite(list(found.values())).all() for _ in [0] if "prefill" not in found
        )
        if not point.kernel.startswith("decode"):
            continue
        batches = [work.args[3] for work in works]
        row = benches.store("f16").row_bytes
        for batch in batches:
            assert int((batch.end - batch.first).sum()) * row == found["bytes"]
            assert batch.longest == found["longest"] == int(batch.end.max())
            top = (
                batch.where.max() * batch.block + batch.end.max()
                if batch.layout == "RANGE"
                else ((batch.where.max() + 1) * batch.block)
            )
            assert top <= TINY.cells
        assert len({batch.where.tobytes() for batch in batches}) > 1, "every call reads the same"


def test_matrices_hold_all_parameters_of_the_model():
    for name in ("llama-3.1-8b", "gemma-3-1b", "mistral-7b"):
        model = model_of(name)
        matrices = matrices_of(model)
        body = sum(k * n * count for k, n, count in matrices[:-1])
        assert 2 * body == model.linear_flops_per_token - model.head_flops_per_token
        assert 2 * matrices[-1][0] * matrices[-1][1] == model.head_flops_per_token


@pytest.mark.parametrize("name", ["deepseek-v3", "mamba-2.8b"])
def test_models_that_cannot_be_measured_are_refused(name):
    with pytest.raises(InputError, match="cannot be calibrated"):
        matrices_of(model_of(name))


def test_repeats_end_with_the_effort():
    calls = []
    times = timed(Backend(), [lambda: calls.append(1)], Effort(repeats=5, warmup=2, seconds=9.0))
    assert times[3] == 5 and len(calls) == 7 and times[1] <= times[0] <= times[2]


# The time model.


def budget(kind: str = "f16", model=MODEL) -> Budget:
    return Budget(model, 1 << 24, kind, kind)


def time_model(path) -> Calibration:
    return Calibration.of(budget(), hardware_of("cpu-16"), str(path))


def decode_work(cells, context, longest, **more) -> Work:
    reads = tuple(Reads(cells, cells, cells // 16) for _ in range(2))
    return Work(
        tokens=4,
        sequences=4,
        reads=reads,
        decodes=4,
        decode_context=context,
        decode_longest=longest,
        **more,
    )


def test_steps_of_a_run_get_the_bits_of_single_steps(known):
    model = time_model(known)
    cells = np.arange(100, 140)
    together = model.seconds(decode_work(cells, cells, cells - 60, steps=40))
    alone = [float(model.seconds(decode_work(int(c), int(c), int(c) - 60))) for c in cells]
    assert together.tolist() == alone


def test_every_part_of_a_step_is_priced(known):
    model = time_model(known)
    base = float(model.seconds(decode_work(100, 100, 50)))
    more = [
        decode_work(5000, 100, 50),
        decode_work(100, 100, 50, copy_bytes=1 << 22),
        decode_work(100, 100, 50, shift_bytes=1 << 22),
        decode_work(100, 100, 50, passes=3),
    ]
    assert all(float(model.seconds(work)) > base for work in more)
    assert model.swap_seconds(1 << 24, True) > model.swap_seconds(1 << 12, True) > 0


def test_reads_of_a_mixed_step_are_divided_by_what_each_must_read(known):
    """A step of both costs about what its parts cost apart."""
    model = time_model(known)
    decode, fixed = decode_work(800, 800, 200), hardware_of("cpu-16").step_overhead
    prefill = Work(32, 1, (Reads(32, 528, 0),) * 2, prefills=((32, 0),))
    both = Work(
        36,
        5,
        tuple(Reads(832, 1328, 50) for _ in range(2)),
        prefills=((32, 0),),
        decodes=4,
        decode_context=800,
        decode_longest=200,
    )
    apart = float(model.seconds(decode)) + float(model.seconds(prefill)) - fixed
    assert 0.4 * apart < float(model.seconds(both)) <= 1.05 * apart


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema=99), "schema: expected 1"),
        (lambda data: data.pop("matrices"), "matrices: missing"),
        (lambda data: data.update(model="other"), "measured for 'other'"),
        (lambda data: data["models"].pop("decode f16"), "no 'decode f16'; measured KV types: f16"),
        (lambda data: data["models"].update(gemm={"fix": 1}), "models: "),
    ],
)
def test_files_that_do_not_fit_are_refused(measured, tmp_path, change, message):
    data = json.loads(measured.read_text())
    change(data)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message) as caught:
        time_model(path)
    assert "\n" not in str(caught.value) and "changed.json" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        time_model(tmp_path / "none.json")
    with pytest.raises(InputError, match="calibration:FILE"):
        time_model("")
