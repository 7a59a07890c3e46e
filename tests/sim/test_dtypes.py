"""KV types against ggml's block sizes."""

import pytest

from sim.dtypes import KV_TYPES, kv_type
from workloads.errors import InputError


def test_sizes_of_4096_elements() -> None:
    assert {name: kind.bytes_of(4096) for name, kind in KV_TYPES.items()} == {
        "f32": 16384,
        "f16": 8192,
        "bf16": 8192,
        "fp8": 4096,
        "int8": 4096,
        "q8_0": 128 * 34,
        "q5_1": 128 * 24,
        "q5_0": 128 * 22,
        "q4_1": 128 * 20,
        "q4_0": 128 * 18,
        "iq4_nl": 128 * 18,
    }


def test_rows_must_be_made_of_whole_blocks() -> None:
    with pytest.raises(InputError, match=r"'q8_0' needs rows of a multiple of 32 .* 80$"):
        kv_type("q8_0").bytes_of(80)


def test_names_in_any_case_and_suggestions() -> None:
    assert kv_type("Q8_0") is kv_type("q8_0") is kv_type(kv_type("q8_0"))
    with pytest.raises(InputError, match=r"unknown KV type 'q8_O'; did you mean 'q8_0'\?"):
        kv_type("q8_O")
