"""Hardware sheets: what a device can do at its best, and which share of it an engine reaches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from sim.tables import instance_of, read_toml
from workloads.errors import InputError
from workloads.plugins import pairs_of
from workloads.registry import suggestion_for

_BUILT_IN = Path(__file__).parent / "hardware"
_WHOLE = ("memory_bytes", "multiprocessors")


@dataclass(frozen=True, kw_only=True)
class HardwareSheet:
    """One device and its link to the host. Bytes, bytes a second, FLOPs a second, seconds.

    memory_bytes: usable device memory. memory_bandwidth: peak. flops: peak of dense f16 / bf16
    matrix products; flops_fp8: of fp8 ones, absent where the device has none.
    memory_efficiency, compute_efficiency: shares of those peaks that engine kernels reach.
    copy_efficiency: share of ``memory_bandwidth`` that copies inside the device reach, counting
    every byte twice (read and write).
    gather_overhead: extra time of attention, as a fraction, when a table of 16-token blocks says
    where K and V are.
    step_overhead: host time of a step that the device waits for. layer_overhead: of each layer of
    a step, on top of its arithmetic (kernel launches and gaps).
    to_device_bandwidth, to_host_bandwidth, link_latency: the host link, as pinned copies see it.
    interconnect_bandwidth, interconnect_latency: what all-reduces between devices of this kind
    reach in one direction, and how long the smallest takes; absent where there is no such link.
    multiprocessors, compute_capability: of an NVIDIA GPU, absent elsewhere.
    """

    name: str
    memory_bytes: int
    memory_bandwidth: float
    flops: float
    memory_efficiency: float
    compute_efficiency: float
    copy_efficiency: float
    gather_overhead: float
    step_overhead: float
    layer_overhead: float
    to_device_bandwidth: float
    to_host_bandwidth: float
    link_latency: float
    flops_fp8: float | None = None
    interconnect_bandwidth: float | None = None
    interconnect_latency: float = 0.0
    multiprocessors: int | None = None
    compute_capability: float | None = None

    def __post_init__(self) -> None:
        for name in (
            *("memory_bytes", "memory_bandwidth", "flops", "flops_fp8"),
            *("to_device_bandwidth", "to_host_bandwidth", "interconnect_bandwidth"),
            *("multiprocessors", "compute_capability"),
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive, not {value}")
        for name in ("memory_efficiency", "compute_efficiency", "copy_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} must be in (0, 1], not {getattr(self, name)}")
        for name in (
            *("gather_overhead", "step_overhead", "layer_overhead", "link_latency"),
            "interconnect_latency",
        ):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative, not {getattr(self, name)}")

    def flops_of(self, bytes_per_parameter: float) -> float:
        """Peak of dense products with weights of that size.

        Only weights of exactly one byte meet fp8 units; smaller ones are unpacked to 16 bits, and
        so are one-byte weights on a device without such units.
        """
        if bytes_per_parameter == 1 and self.flops_fp8 is not None:
            return self.flops_fp8
        return self.flops


def hardware_names() -> list[str]:
    """Names of the built-in sheets, sorted."""
    return sorted(path.stem for path in _BUILT_IN.glob("*.toml"))


def hardware_of(name_or_path: str | Path) -> HardwareSheet:
    """The built-in sheet of that name (in any case), or the sheet in a TOML file.

    Fields can be changed behind a colon, as in ``h100:to_device_bandwidth=25e9,link_latency=2e-5``.
    Raises `InputError` where there is no such sheet or field, or the file is not a complete one.
    """
    text = str(name_or_path)
    base, _, changes = text.rpartition(":")
    if base and "=" in changes:
        return _changed(hardware_of(base), changes, text)
    if text.lower() in hardware_names():
        path = _BUILT_IN / f"{text.lower()}.toml"
        return _sheet(path, path.name)
    path = Path(text).expanduser()
    if path.suffix == ".toml":
        return _sheet(path, text)
    raise InputError(f"unknown hardware {text!r}; {suggestion_for(text.lower(), hardware_names())}")


def _changed(sheet: HardwareSheet, changes: str, where: str) -> HardwareSheet:
    table = {key: value for key, value in asdict(sheet).items() if value is not None}
    for key, value in pairs_of(changes, where).items():
        try:
            number = float(value)
        except ValueError:
            raise InputError(f"{where}: {key}: expected a number, not {value!r}") from None
        table[key] = int(number) if key in _WHOLE and isfinite(number) else number
    return instance_of(HardwareSheet, table, where)


def _sheet(path: Path, where: str) -> HardwareSheet:
    return instance_of(HardwareSheet, {"name": path.stem} | read_toml(path), where)
