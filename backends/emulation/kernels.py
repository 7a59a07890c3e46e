"""The CUDA kernels, compiled by a C++ compiler for the CPU.

What they do on a GPU, they do here to the same bits, so their arithmetic and their indices are
checked where there is no GPU. Their speed is not.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from backends.kernels import FOLDER, source_of

_SHIM = Path(__file__).parent / "shim.h"
_KERNEL = re.compile(r'extern "C" __global__ void(?: __launch_bounds__\([^)]*\))? (\w+)\(')

Run: TypeAlias = Callable[[tuple[int, ...], tuple[int, ...], Sequence[Any]], None]


def function_of(code: str, name: str, defines: tuple[str, ...]) -> Run:
    """A kernel of ``code``; it is called with the grid, the block, and NumPy arrays or scalars."""
    entry = getattr(ctypes.CDLL(str(_library(code, defines))), f"emulate_{name}")

    def run(grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any]) -> None:
        kept = [_argument(each) for each in args]
        given = (ctypes.c_void_p * len(kept))(*(each.ctypes.data for each in kept))
        if entry(given, _three(grid), _three(block)):
            raise RuntimeError(f"{name}: threads of a block wait for one that is over")

    return run


def _argument(value: Any) -> Any:
    """What a kernel's parameter points to: an array's address, or a number."""
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise ValueError("kernels take contiguous arrays only")
        return np.array([value.ctypes.data], dtype=np.uintp)
    return np.array([value])


def _three(sizes: tuple[int, ...]) -> Any:
    return (ctypes.c_uint * 3)(*sizes, *[1] * (3 - len(sizes)))


@cache
def _library(source: str, options: tuple[str, ...]) -> Path:
    text = "\n".join(
        [f'#include "{_SHIM}"', source, *(f"EMULATED({name})" for name in _KERNEL.findall(source))]
    )
    mark = hashlib.sha256(
        "\n".join([text, _SHIM.read_text(), source_of("numbers.cuh"), *options]).encode()
    )
    target = Path(tempfile.gettempdir()) / f"kvlab-kernels-{mark.hexdigest()[:24]}.so"
    if not target.exists():
        _compile(text, options, target)
    return target


def _compile(text: str, options: Sequence[str], target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        source.write_text(text)
        flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", f"-I{FOLDER}"]
        command = ["g++", *flags, *options, str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kernels do not compile for the CPU:\n{done.stderr}")
        shutil.move(made, target)
