"""Compiles the kernels without a GPU, and says what they take: registers, spilled bytes.

NVRTC comes with the package ``nvidia-cuda-nvrtc-cu12`` and is called through its C interface. The
report is that of ``ptxas -v``, which NVRTC hands on in its log.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from typing import Any, NamedTuple

from backends.kernels import FOLDER, source_of
from workloads.errors import InputError

PACKAGES = ("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc")
_LIBRARY = re.compile(r"libnvrtc\.so(\.\d+)+$")
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_\d+'")
_SHARED = re.compile(r"(\d+) bytes smem")
_ALWAYS = (
    re.compile(r"Used (\d+) registers"),
    re.compile(r"(\d+) bytes spill stores"),
    re.compile(r"(\d+) bytes stack frame"),
)


class Resources(NamedTuple):
    """What a thread of a kernel takes: registers, and bytes outside of them.

    spilled: of values that did not fit. stack: of arrays that are found by a variable. shared: of
    a block.
    """

    registers: int
    spilled: int
    stack: int
    shared: int


def compiled(file: str, defines: Mapping[str, object], arch: int) -> dict[str, Resources]:
    """Compile a source file for ``sm_{arch}``; every kernel's resources by name.

    Raises `InputError` where NVRTC is not installed and `RuntimeError` with the compiler's log
    where the source does not compile.
    """
    options = [
        *("-std=c++17", f"-arch=sm_{arch}", f"-I{FOLDER}", "--ptxas-options=-v"),
        *(f"-D{name}={value}" for name, value in defines.items()),
    ]
    return dict(_resources_in(_compile(source_of(file), file, options)))


def _resources_in(log: str) -> Iterator[tuple[str, Resources]]:
    parts = _ENTRY.split(log)[1:]
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        registers, spilled, stack = (each.search(text) for each in _ALWAYS)
        shared = _SHARED.search(text)  # not mentioned where there is none
        if registers and spilled and stack:
            own = int(shared[1]) if shared else 0
            yield name, Resources(int(registers[1]), int(spilled[1]), int(stack[1]), own)


def _compile(source: str, name: str, options: list[str]) -> str:
    """The log of a successful compilation."""
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), name.encode(), 0, None, None
    )
    if created:
        raise RuntimeError(f"NVRTC: {_name_of(created)}")
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    result = nvrtc.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    text = log.value.decode()
    if result:
        raise RuntimeError(f"{name}: {_name_of(result)}\n{text}")
    return text


def _name_of(result: int) -> str:
    return str(_nvrtc().nvrtcGetErrorString(result).decode())


@cache
def _nvrtc() -> Any:
    for package in PACKAGES:
        try:
            installed = files(package) or []
        except PackageNotFoundError:
            continue
        found = next((file for file in installed if _LIBRARY.search(file.name)), None)
        if found is not None:
            library = ctypes.CDLL(str(found.locate()))
            library.nvrtcGetErrorString.restype = ctypes.c_char_p
            return library
    raise InputError(f"NVRTC is not installed (pip install {PACKAGES[0]})")
