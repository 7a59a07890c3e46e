"""Hardware sheets: complete, plausible, and refused when they are not."""

from dataclasses import replace
from pathlib import Path

import pytest

from sim.hardware import hardware_names, hardware_of
from workloads.errors import InputError

# Peak bytes a second over peak dense f16 FLOPs a second, from the makers' pages.
RIDGES = {
    "a100-40": 312 / 1.555,
    "a100-80": 312 / 2.039,
    "h100": 989.4 / 3.35,
    "h200": 989.4 / 4.8,
    "rtx-4090": 165.2 / 1.008,
    "rtx-pro-6000": 503.8 / 1.792,
    "cpu-16": 2.304 / 0.0832,
    "l40s": 362.05 / 0.864,
    "b200": 2250 / 7.7,
    "rtx-5090": 209.5 / 1.792,
    "mi300x": 1307.4 / 5.325,
    "m2-ultra": 27.2 / 0.8,
}


def test_ridge_points() -> None:
    assert set(hardware_names()) == set(RIDGES)
    for name, ridge in RIDGES.items():
        sheet = hardware_of(name)
        assert sheet.name == name
        assert sheet.flops / sheet.memory_bandwidth == pytest.approx(ridge, rel=0.01)
        assert sheet.to_device_bandwidth < sheet.memory_bandwidth
    assert hardware_of("H100").memory_bytes == 81_559 * 2**20


def test_interconnects_are_slower_than_memory() -> None:
    linked = {name: hardware_of(name).interconnect_bandwidth for name in hardware_names()}
    assert {name for name, rate in linked.items() if rate is None} == {"cpu-16", "m2-ultra"}
    for name, rate in linked.items():
        assert rate is None or rate < hardware_of(name).memory_bandwidth / 4
        assert (rate is None) == (hardware_of(name).interconnect_latency == 0)


def test_fp8_only_where_there_are_units_for_it() -> None:
    h100, a100 = hardware_of("h100"), hardware_of("a100-80")
    assert h100.flops_of(1) == pytest.approx(2 * h100.flops, rel=1e-3)
    assert h100.flops_of(2) == h100.flops_of(0.5) == h100.flops
    assert a100.flops_of(1) == a100.flops


SHEET = Path(__file__).parents[2] / "sim" / "hardware" / "h100.toml"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_bytes =", "memory_byte =", "unknown key 'memory_byte'; .*'memory_bytes'"),
        ("link_latency = 10e-6", "", "mine.toml: 'link_latency' is missing"),
        ("link_latency = 10e-6", "link_latency = -1", "link_latency must not be negative"),
        ("link_latency = 10e-6", "link_latency = inf", "must be a finite number"),
        ("compute_efficiency = 0.7", "compute_efficiency = 70", "must be in \\(0, 1\\], not 70"),
        ("memory_bandwidth = 3.35e12", "memory_bandwidth = 0", "memory_bandwidth must be positive"),
        ("memory_bandwidth = 3.35e12", 'memory_bandwidth = "3 TB"', "must be of type float"),
    ],
)
def test_bad_sheets(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = SHEET.read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert hardware_of(path).name == "mine"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        hardware_of(path)


def test_unknown_sheets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown hardware 'h10'; did you mean 'h100'\?"):
        hardware_of("h10")
    with pytest.raises(InputError, match="cannot be read"):
        hardware_of(tmp_path / "none.toml")


def test_fields_can_be_changed_behind_a_colon():
    changed = hardware_of("h100:to_device_bandwidth=25e9,memory_bytes=1e9")
    assert changed == replace(hardware_of("h100"), to_device_bandwidth=25e9, memory_bytes=10**9)
    for spec, words in (
        ("h100:to_devic=3", "to_devic"),
        ("h100:link_latency=x", "link_latency: expected a number"),
        ("h100:link_latency=-1", "must not be negative"),
        ("h100:memory_bytes=inf", "memory_bytes must be"),
        ("h10:link_latency=1", "did you mean 'h100'"),
    ):
        with pytest.raises(InputError, match=words):
            hardware_of(spec)
