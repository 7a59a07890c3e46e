"""Readers: what good files mean, and which line of a bad one is named."""

import json
import os
from pathlib import Path

import pytest

from workloads.errors import InputError
from workloads.prefix import branch_at, check_path, common_prefix
from workloads.request import Request
from workloads.traces.azure import Azure
from workloads.traces.base import Trace
from workloads.traces.jsonl import Jsonl
from workloads.traces.mooncake import Mooncake

DATA = Path(__file__).parent / "data"
SHARED = Path(os.environ.get("KVLAB_SHARED", Path(__file__).parents[3] / "shared")) / "data"

GOOD = {Azure: "azure.csv", Mooncake: "mooncake.jsonl", Jsonl: "kvlab.jsonl"}
CUT_SHORT = [
    (Azure, "azure_cut_short.csv", 3),
    (Mooncake, "mooncake_cut_short.jsonl", 5),
    (Jsonl, "kvlab_cut_short.jsonl", 3),
]


def read(trace: Trace) -> list[Request]:
    return list(trace.traffic().arrivals())


def good(reader: type[Trace], **options: float) -> Trace:
    return reader(str(DATA / GOOD[reader]), **options)  # type: ignore[arg-type]


def test_azure() -> None:
    requests = read(good(Azure))
    assert [each.arrival for each in requests] == [
        0.0, 4.314579, 4.3145791, 14.31941, 20653.81941,
    ]  # fmt: skip
    assert [(each.id, each.prompt, each.output) for each in requests] == [
        (0, 374, 44), (1, 396, 109), (2, 879, 55), (3, 91, 16), (4, 1, 1),
    ]  # fmt: skip
    assert {each.path for each in requests} == {None}
    assert good(Azure).prefix_identity.startswith("none")


def test_azure_with_time_zone(tmp_path: Path) -> None:
    """The rows of the 2024 release carry an offset."""
    file = tmp_path / "2024.csv"
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 02:00:00.010930+02:00,2399,6\n"
    )
    assert [each.arrival for each in read(Azure(str(file)))] == [0.0, 0.001]


def test_mooncake() -> None:
    requests = read(good(Mooncake))
    assert [each.arrival for each in requests] == [0.0, 0.0, 3.5, 6.001, 9.0]
    assert requests[0].path == ((0, 1300), (2**62, 1320))
    assert requests[1].path == ((0, 1024), (2**62 + 1, 1031))
    assert requests[2].path == ((0, 1024), (3, 1500), (2**62 + 2, 1501))
    assert requests[3].path == ((4, 1), (2**62 + 3, 10))
    for each in requests:
        assert each.path
        check_path(each.path, each.prompt + each.output)
    shared = [[common_prefix(a.path or (), b.path or ()) for b in requests] for a in requests]
    assert shared[0] == [1320, 1024, 1024, 0, 1300]  # an output is nobody else's
    assert shared[1][2] == 1024
    assert good(Mooncake).prefix_identity == "exact"


def test_jsonl() -> None:
    requests = read(good(Jsonl))
    assert requests == [
        Request(0, 0.0, 10, 2, ((7, 4), (8, 12))),
        Request(1, 0.125, 5, 5, None, 3, 2, 4, 1, -1, "chat"),
        Request(5, 3.0, 6, 1, ((7, 4), (9, 7)), beam_width=2),
    ]
    assert good(Jsonl).prefix_identity == "exact"


@pytest.mark.parametrize("reader", GOOD)
def test_traces_replay(reader: type[Trace]) -> None:
    trace = good(reader)
    assert read(trace) == read(trace)


def test_slices() -> None:
    assert [each.id for each in read(good(Azure, requests=2))] == [0, 1]
    later = read(good(Azure, start=4.3145791, duration=10.5))
    assert [(each.id, each.prompt) for each in later] == [(0, 879), (1, 91)]
    assert [each.arrival for each in later] == pytest.approx([0.0, 10.0048309])
    with pytest.raises(InputError, match="at least one request in the slice"):
        read(good(Azure, start=15.0, duration=5.0))


def test_speedup_and_rate() -> None:
    assert [each.arrival for each in read(good(Mooncake, speedup=2.0))] == [0, 0, 1.75, 3.0005, 4.5]
    times = [each.arrival for each in read(good(Mooncake, rate=8.0))]
    assert times == pytest.approx([0, 0, 3.5 / 18, 6.001 / 18, 0.5])
    part = [each.arrival for each in read(good(Mooncake, rate=8.0, start=1.0, requests=2))]
    assert part[1] - part[0] == pytest.approx(1 / 8)
    with pytest.raises(InputError, match="rate or speedup, got both"):
        good(Mooncake, rate=8.0, speedup=2.0)
    with pytest.raises(InputError, match="all at once"):
        read(good(Mooncake, rate=8.0, requests=2))


@pytest.mark.parametrize(("reader", "name", "line"), CUT_SHORT)
def test_files_cut_short(reader: type[Trace], name: str, line: int) -> None:
    with pytest.raises(InputError) as refused:
        read(reader(str(DATA / name)))
    assert f"{name}:{line}: expected" in str(refused.value)


def azure_row(
    stamp: str = "2023-11-16 18:15:50.995169", prompt: object = 5, output: object = 6
) -> str:
    return f"{stamp},{prompt},{output}"


def mooncake_row(**changes: str) -> str:
    row = {
        "timestamp": "30500", "input_length": "513", "output_length": "1", "hash_ids": "[0, 9]",
    } | changes  # fmt: skip
    return "{" + ", ".join(f'"{key}": {value}' for key, value in row.items() if value) + "}"


def jsonl_row(**changes: str) -> str:
    row = {
        "id": "2", "arrival": "0.25", "prompt": "5", "output": "5", "path": "[[1, 10]]",
        "conversation": "null", "turn": "0", "samples": "1", "beam_width": "1",
        "priority": "0", "slo_class": '"default"',
    } | changes  # fmt: skip
    return "{" + ", ".join(f'"{key}": {value}' for key, value in row.items() if value) + "}"


BAD_ROWS: list[tuple[type[Trace], str, str]] = [
    (Azure, "", "no empty line in the middle"),
    (Azure, "TIMESTAMP,ContextTokens,GeneratedTokens", "expected YYYY-MM-DD"),
    (Azure, mooncake_row(), "expected YYYY-MM-DD"),
    (Azure, "2023-11-16 18:15:51,5", "expected YYYY-MM-DD"),
    (Azure, azure_row() + ",7", "expected YYYY-MM-DD"),
    (Azure, azure_row(prompt=-5), "expected YYYY-MM-DD"),
    (Azure, azure_row(prompt="nan"), "expected YYYY-MM-DD"),
    (Azure, azure_row(prompt=5.5), "expected YYYY-MM-DD"),
    (Azure, azure_row(prompt="٣"), "expected YYYY-MM-DD"),
    (Azure, azure_row(prompt=0), "at least one token"),
    (Azure, azure_row(output=0), "at least one token"),
    (Azure, azure_row(output=10**9 + 1), "expected at most 1000000000 tokens"),
    (Azure, azure_row("2023-02-30 18:15:51"), "a date and time that exist"),
    (Azure, azure_row("2023-11-16 25:15:51"), "a date and time that exist"),
    (Azure, azure_row("2023-11-16 18:15:61"), "expected YYYY-MM-DD"),
    (Azure, azure_row("2023-11-16 18:15:49"), "expected times in order, got one 1.99517 s before"),
    (Azure, azure_row("2023-11-16 18:15:40"), "expected times in order"),
    (Azure, azure_row("2523-11-16 18:15:51"), "at most 1e+09 s"),
    (Mooncake, "", "no empty line in the middle"),
    (Mooncake, azure_row(), "expected one JSON object"),
    (Mooncake, "[1, 2]", "expected one JSON object"),
    (Mooncake, "[" * 100_000, "expected one JSON object"),
    (Mooncake, mooncake_row(output_length=""), "got a row without output_length"),
    (Mooncake, mooncake_row(wait_for='["a"]'), "wait_for: expected names of rows of this file"),
    (Mooncake, mooncake_row(wait_for='"a"'), "wait_for: expected a list of request ids"),
    (Mooncake, mooncake_row(dependencies="[]"), "got those of version 2"),
    (Mooncake, mooncake_row(timestamp="NaN"), "timestamp: expected a finite time"),
    (Mooncake, mooncake_row(timestamp="1e999"), "timestamp: expected a finite time"),
    (Mooncake, mooncake_row(timestamp="1" + "0" * 400), "timestamp: expected a finite time"),
    (Mooncake, mooncake_row(timestamp="-1"), "timestamp: expected a finite time"),
    (Mooncake, mooncake_row(timestamp='"3"'), "timestamp: expected a finite time"),
    (Mooncake, mooncake_row(timestamp="true"), "timestamp: expected a finite time"),
    (Mooncake, mooncake_row(timestamp="26999"), "expected times in order"),
    (
        Mooncake,
        mooncake_row(input_length="0", hash_ids="[]"),
        "at least one token",
    ),
    (Mooncake, mooncake_row(input_length="513.5"), "input_length: expected a whole number"),
    (
        Mooncake,
        mooncake_row(output_length="0"),
        "at least one token",
    ),
    (Mooncake, mooncake_row(output_length="-4"), "output_length: expected a whole number"),
    (Mooncake, mooncake_row(output_length="1000000001"), "output_length: expected a whole"),
    (Mooncake, mooncake_row(hash_ids="[0]"), "expected 2 blocks of 512 for input_length 513"),
    (Mooncake, mooncake_row(hash_ids="[0, 9, 10]"), "expected 2 blocks of 512"),
    (Mooncake, mooncake_row(hash_ids="[]"), "expected a list of whole numbers"),
    (Mooncake, mooncake_row(hash_ids="[0, -9]"), "expected numbers from 0 below 2**62"),
    (Mooncake, mooncake_row(hash_ids=f"[0, {2**62}]"), "expected numbers from 0 below 2**62"),
    (Mooncake, mooncake_row(hash_ids="[0, 9.0]"), "expected a list of whole numbers"),
    (Mooncake, mooncake_row(hash_ids="null"), "expected hash_ids, as the first row has them"),
    (Mooncake, mooncake_row(hash_ids="[0, 0]"), "expected equal ids after equal prefixes"),
    (Mooncake, mooncake_row(hash_ids="[1, 9]"), "expected equal ids after equal prefixes"),
    (Mooncake, mooncake_row(hash_ids="[9, 2]"), "expected equal ids after equal prefixes"),
    (Jsonl, "", "no empty line in the middle"),
    (Jsonl, azure_row(), "expected one JSON object"),
    (Jsonl, mooncake_row(), "got a row without"),
    (Jsonl, jsonl_row(turn=""), "got a row without turn"),
    (Jsonl, jsonl_row(extra="1"), "got a row with 'extra'"),
    (Jsonl, jsonl_row(id="1"), "id: expected a whole number from 2"),
    (Jsonl, jsonl_row(arrival="Infinity"), "arrival: expected a finite time"),
    (Jsonl, jsonl_row(arrival="0.1"), "expected times in order"),
    (Jsonl, jsonl_row(prompt="0"), "prompt: expected a whole number from 1"),
    (Jsonl, jsonl_row(output="true"), "output: expected a whole number from 1"),
    (Jsonl, jsonl_row(path="[[1, 9]]"), "path: expected a path over 10 tokens"),
    (Jsonl, jsonl_row(path="[[1, 10], [2, 4]]"), "path: expected ends that rise"),
    (Jsonl, jsonl_row(path="[[1, 10.0]]"), "path: expected [branch, end] as whole numbers"),
    (Jsonl, jsonl_row(path="[[-1, 10]]"), "path: expected branches from 0 below 2**63"),
    (Jsonl, jsonl_row(path="[1, 10]"), "path: expected [[branch, end], ...] or null"),
    (Jsonl, jsonl_row(path='"ab"'), "path: expected [[branch, end], ...] or null"),
    (Jsonl, jsonl_row(path="7"), "path: expected [[branch, end], ...] or null"),
    (Jsonl, jsonl_row(conversation="-1"), "conversation: expected a whole number"),
    (Jsonl, jsonl_row(samples="0"), "samples: expected a whole number from 1"),
    (Jsonl, jsonl_row(beam_width="0"), "beam_width: expected a whole number from 1"),
    (Jsonl, jsonl_row(priority="1.5"), "priority: expected a whole number"),
    (Jsonl, jsonl_row(slo_class="3"), "slo_class: expected text"),
]


@pytest.mark.parametrize(("reader", "row", "message"), BAD_ROWS)
def test_bad_rows_are_named(reader: type[Trace], row: str, message: str, tmp_path: Path) -> None:
    lines = (DATA / GOOD[reader]).read_text().splitlines()
    lines[3:3] = [row]
    file = tmp_path / "bad"
    file.write_text("\n".join(lines))
    with pytest.raises(InputError) as refused:
        read(reader(str(file)))
    assert str(refused.value).startswith(f"{file}:4: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("row", [azure_row(), mooncake_row(), jsonl_row()])
@pytest.mark.parametrize("reader", GOOD)
def test_good_rows_of_these_tests_are_good(reader: type[Trace], row: str, tmp_path: Path) -> None:
    """The rows that the bad ones are made from pass, each in its own format only."""
    lines = (DATA / GOOD[reader]).read_text().splitlines()
    lines[3:3] = [row]
    file = tmp_path / "file"
    file.write_text("\n".join(lines).replace('"requests": 3', '"requests": 4'))
    own = {Azure: azure_row(), Mooncake: mooncake_row(), Jsonl: jsonl_row()}[reader]
    if row == own:
        assert len(read(reader(str(file)))) == len(read(good(reader))) + 1
    else:
        with pytest.raises(InputError):
            read(reader(str(file)))


@pytest.mark.parametrize("reader", GOOD)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected at least one request, got none"),
        (b"\n\n", "expected at least one request, got none"),
        (b"\xff\xfe\x00", ":1: expected UTF-8 text"),
        (b"something else\n", ":1: expected"),
    ],
)
def test_other_files(reader: type[Trace], content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read(reader(str(file)))
    assert message in str(refused.value)


@pytest.mark.parametrize("reader", GOOD)
def test_unreadable_files_are_refused_at_once(reader: type[Trace], tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="cannot be read"):
            reader(str(path))


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ('{"format": "kvlab-requests", "version": 2}', 1),
        ('{"format": "other", "version": 1}', 1),
        ('{"format": "kvlab-requests", "version": 1, "more": 1}', 1),
        ('{"format": "kvlab-requests", "version": 1, "requests": 4}', 4),
        ('{"format": "kvlab-requests", "version": 1, "requests": -1}', 1),
    ],
)
def test_jsonl_headers(header: str, line: int, tmp_path: Path) -> None:
    lines = (DATA / "kvlab.jsonl").read_text().splitlines()
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join([header, *lines[1:]]))
    with pytest.raises(InputError) as refused:
        read(Jsonl(str(file)))
    assert str(refused.value).startswith(f"{file}:{line}: expected") or "requests:" in str(
        refused.value
    )


def test_empty_lines_at_the_end_are_nothing(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text((DATA / "mooncake.jsonl").read_text() + "\n  \n")
    assert read(Mooncake(str(file))) == read(good(Mooncake))


def shared(name: str) -> str:
    if not (SHARED / name).exists():
        pytest.skip(f"needs {name} in {SHARED}")
    return str(SHARED / name)


def test_the_public_azure_trace() -> None:
    requests = read(Azure(shared("azure_2023/AzureLLMInferenceTrace_conv.csv")))
    assert len(requests) == 19_366
    assert sum(each.output for each in requests) == 4_088_665
    assert requests[-1].arrival == 3501.721937


def test_the_public_mooncake_trace() -> None:
    trace = shared("mooncake_fast25/conversation_trace.jsonl")
    requests = read(Mooncake(trace))
    assert len(requests) == 12_031
    assert sum(each.prompt for each in requests) == 144_793_823
    names: dict[int, tuple[int, int]] = {}
    ids: dict[tuple[int, int], int] = {}
    for each, line in zip(requests, Path(trace).read_text().splitlines(), strict=True):
        for place, block in enumerate(json.loads(line)["hash_ids"]):
            # A block and its place on a branch are two names of the same thing, ever.
            name = branch_at(each.path or (), min((place + 1) * 512, each.prompt)), place
            assert names.setdefault(block, name) == name
            assert ids.setdefault(name, block) == block
    assert len({branch for branch, _ in ids}) < len(ids) / 10
