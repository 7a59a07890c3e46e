"""CUDA kernels: sources that can be read by themselves, compiled when they are first used.

Every ``.cu`` file says in its first lines which ``-D`` options it is compiled with. They need
``numbers.cuh`` and no header of the CUDA toolkit.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent

TYPES = {
    "f32": "F32",
    "f16": "F16",
    "bf16": "BF16",
    "fp8": "FP8",
    "q8_0": "Q8_0",
    "q4_0": "Q4_0",
}
"""Names of the types in the sources, by the name of the cache type."""


def source_of(file: str) -> str:
    """The text of a source file of this folder."""
    return (FOLDER / file).read_text(encoding="utf-8")
