"""A backend whose kernels are the CUDA ones, compiled by a C++ compiler for the CPU.

Arrays are NumPy's. What `KernelStore` and the decode kernel do on a GPU, they do here to the same
bits, so their arithmetic, their indices and the code that launches them are checked where there is
no GPU. Their speed is not.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from backends.arrays import Backend, Launch
from backends.kernels import FOLDER, source_of
from workloads.errors import InputError

_SHIM = Path(__file__).parent / "shim.h"
_KERNEL = re.compile(r'extern "C" __global__ void(?: __launch_bounds__\([^)]*\))? (\w+)\(')


class EmulatedBackend(Backend):
    """NumPy with kernels. Raises `InputError` where there is no C++ compiler."""

    name = "emulated"
    has_kernels = True

    def __init__(self) -> None:
        super().__init__()
        if shutil.which("g++") is None:
            raise InputError("backend 'emulated': no C++ compiler (g++)")

    def kernel(self, file: str, name: str, defines: Mapping[str, object]) -> Launch:
        """The kernel, compiled for the CPU at its first use."""
        library = ctypes.CDLL(str(_library(file, tuple(defines.items()))))
        entry = getattr(library, f"emulate_{name}")

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            kept = [_argument(each) for each in args]
            given = (ctypes.c_void_p * len(kept))(*(each.ctypes.data for each in kept))
            if entry(given, _three(grid), _three(block)):
                raise RuntimeError(f"{name}: threads of a block wait for one that is over")

        return launch


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
def _library(file: str, defines: tuple[tuple[str, object], ...]) -> Path:
    source = source_of(file)
    text = "\n".join(
        [f'#include "{_SHIM}"', source, *(f"EMULATED({name})" for name in _KERNEL.findall(source))]
    )
    options = [f"-D{name}={value}" for name, value in defines]
    mark = hashlib.sha256(
        "\n".join([text, _SHIM.read_text(), source_of("numbers.cuh"), *options]).encode()
    )
    target = Path(tempfile.gettempdir()) / f"kvlab-kernels-{mark.hexdigest()[:24]}.so"
    if not target.exists():
        _compile(text, options, target)
    return target


def _compile(text: str, options: list[str], target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        source.write_text(text)
        flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", f"-I{FOLDER}"]
        command = ["g++", *flags, *options, str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kernels do not compile for the CPU:\n{done.stderr}")
        shutil.move(made, target)
