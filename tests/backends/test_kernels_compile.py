"""Every kernel compiles for the GPUs in use, and its values stay in registers."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess

import pytest

from backends.decode import RESIDENT
from backends.kernels import FOLDER, TYPES
from backends.kernels.compiler import compiled
from workloads.errors import InputError

ARCHS = (80, 90)


def defines(k="BF16", v=None, dim=128, heads=4, layout="TABLE", block=16):
    return {
        "K_TYPE": k,
        "V_TYPE": v or k,
        "HEAD_DIM": dim,
        "HEADS": heads,
        "LAYOUT": layout,
        "BLOCK": block,
    }


DECODE = [
    *(defines(kind) for kind in TYPES.values()),
    *(defines(layout=layout) for layout in ("RANGE", "RING")),
    *(defines(dim=dim) for dim in (32, 64, 256)),
    defines("Q8_0", "Q4_0", heads=1, block=1),
]
CASES = [
    *(("decode.cu", {"decode", "combine"}, each) for each in DECODE),
    *(
        (
            "rows.cu",
            {"write_rows", "read_rows", "turn_rows"},
            {"TYPE": kind, "HEAD_DIM": 128},
        )
        for kind in TYPES.values()
    ),
    *(
        ("copies.cu", {"copy_runs"}, {"VECTOR": vector})
        for vector in ("uint4", "uint2", "word", "half_word")
    ),
]


def resources(file, options, arch):
    try:
        return compiled(file, options, arch)
    except InputError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(
    ("arch", "file", "names", "options"),
    [
        pytest.param(arch, *case, id=f"sm_{arch}-{case[0]}-{'-'.join(map(str, case[2].values()))}")
        for arch, case in itertools.product(ARCHS, CASES)
    ],
)
def test_a_kernel_compiles_and_spills_nothing(arch, file, names, options):
    found = resources(file, options, arch)
    assert found.keys() == names
    for name, taken in found.items():
        assert taken.spilled == taken.stack == 0, name
        assert taken.registers <= 168, name


SHARED = {80: 164 << 10, 90: 228 << 10}
"""Bytes of shared memory of a multiprocessor; a block takes 1 KiB beside its own."""


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kind", ["BF16", "F16"])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_four_blocks_of_half_precision_decode_fit_a_multiprocessor(arch, kind, dim):
    """65 536 registers / (4 blocks x 128 threads): what the kernel's text promises."""
    taken = resources("decode.cu", defines(kind, dim=dim), arch)["decode"]
    assert taken.registers <= 128
    assert RESIDENT * (taken.shared + 1024) <= SHARED[arch]
    # K and V of two tiles of 4 rows for each of 128 threads, 16 bytes of each.
    assert taken.shared == 2 * 4 * 128 * (16 + 16)


def test_a_mistake_in_a_source_is_reported_with_its_line():
    with pytest.raises((RuntimeError, InputError)) as caught:
        resources("rows.cu", {"TYPE": "NO_SUCH_TYPE", "HEAD_DIM": 128}, 80)
    assert re.search(r"rows\.cu\(\d+\): error", str(caught.value))


def test_all_sources_are_compiled_here():
    assert {path.name for path in FOLDER.glob("*.cu")} == {case[0] for case in CASES}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_nvcc_agrees(tmp_path):
    options = [f"-D{name}={value}" for name, value in defines().items()]
    command = ["nvcc", "-cubin", "-arch=sm_90", *options, "-o", str(tmp_path / "o.cubin")]
    subprocess.run([*command, str(FOLDER / "decode.cu")], check=True, capture_output=True)
