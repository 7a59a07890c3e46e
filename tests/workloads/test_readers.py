"""Readers of other people's formats: what good files mean, and what is said of bad ones."""

import gzip
import json
import random
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workloads.arrivals import ClosedLoop, ConstantRate
from workloads.errors import InputError
from workloads.nominal import served
from workloads.prefix import check_path, common_prefix
from workloads.request import OUTPUTS, Request, Workload
from workloads.sessions import ClosedTraffic
from workloads.spec import WORKLOADS, reader_of, workload_of
from workloads.traces.base import Trace
from workloads.traces.items import Documents, Items, members_of
from workloads.traces.jsonl import Jsonl
from workloads.traces.sharegpt import ShareGPTFile
from workloads.traces.writer import write_requests

FIXTURES = Path(__file__).parent / "fixtures"
READERS = sorted(
    name for name in WORKLOADS.names() if isinstance(WORKLOADS.load(name), type)
    and issubclass(WORKLOADS.load(name), Trace)
)  # fmt: skip


def fixture(name: str) -> Path:
    (found,) = FIXTURES.glob(f"{name}.*") if name != "servegen" else (FIXTURES / name,)
    return found


def good(name: str, **options: Any) -> Workload:
    return workload_of(f"{name}:{fixture(name)}", **options)


def read(workload: Workload) -> list[Request]:
    """All requests, in the order in which sessions start."""
    return [request for session in workload.traffic().sessions() for request in session]


def lengths(workload: Workload) -> list[tuple[float, int, int]]:
    return [(each.arrival, each.prompt, each.output) for each in read(workload)]


def shared(a: Request, b: Request) -> int:
    assert a.path is not None
    assert b.path is not None
    return common_prefix(a.path, b.path)


# What every reader promises.


def test_every_reader_has_a_file_here() -> None:
    assert {path.stem for path in FIXTURES.iterdir()} - {
        "vidur-lengths",
        "mooncake-waiting",
    } == set(READERS)


@pytest.mark.parametrize("name", READERS)
def test_the_format_is_recognised(name: str) -> None:
    assert reader_of(str(fixture(name))) is WORKLOADS.load(name)
    assert read(workload_of(str(fixture(name)))) == read(good(name))


@pytest.mark.parametrize("name", READERS)
def test_requests_are_sound(name: str) -> None:
    requests = read(good(name))
    assert requests
    assert all(a.id < b.id for a, b in pairwise(requests))
    for each in requests:
        assert type(each.prompt) is type(each.output) is int
        assert type(each.arrival) is float
        assert each.prompt >= 1
        assert each.output >= 1
        assert each.arrival >= 0
        if each.path is not None:
            check_path(each.path, each.prompt + each.output)
    sound = re.match("exact|none: |lost: ", good(name).prefix_identity)
    assert sound
    assert (requests[0].path is None) == sound[0].startswith("none")


@pytest.mark.parametrize("name", READERS)
def test_reading_again_gives_the_same(name: str) -> None:
    trace = good(name)
    assert read(trace) == read(trace)


@pytest.mark.parametrize("name", READERS)
def test_written_once_and_again(name: str, tmp_path: Path) -> None:
    write_requests(good(name), tmp_path / "one.jsonl")
    replayed = workload_of(str(tmp_path / "one.jsonl"))
    assert read(replayed) == read(good(name))
    assert replayed.traffic().clients == good(name).traffic().clients
    write_requests(replayed, tmp_path / "two.jsonl")
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


@pytest.mark.parametrize("name", READERS)
def test_requests_limits_the_slice(name: str) -> None:
    whole = read(good(name))
    assert read(good(name, requests=2)) == whole[:2]


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", READERS)
def test_repetition(name: str, fresh: bool) -> None:
    once = read(good(name))
    size = len(once)
    thrice = read(good(name, repeat=3, fresh=fresh))
    assert thrice[:size] == once
    assert all(a.id < b.id for a, b in pairwise(thrice))
    for copy in (1, 2):
        repeated = thrice[copy * size : (copy + 1) * size]
        for ours, theirs in zip(once, repeated, strict=True):
            moved = theirs.id - ours.id
            assert (ours.prompt, ours.output) == (theirs.prompt, theirs.output)
            assert [each - moved for each in theirs.after] == list(ours.after)
            if ours.path is not None and theirs.path is not None:
                assert common_prefix(ours.path, theirs.path) == (0 if fresh else ours.path[-1][1])
        # Within a copy all is as it was.
        known = [place for place, each in enumerate(once) if each.path is not None]
        for place in known:
            assert shared(repeated[place], repeated[0]) == shared(once[place], once[0])
    starts = [each.arrival for each in thrice if not each.after]
    assert starts == sorted(starts) or good(name).traffic().clients is not None


@pytest.mark.parametrize("name", READERS)
def test_rate_and_speedup(name: str) -> None:
    trace = good(name)
    assert isinstance(trace, Trace)
    starts = np.array([each.arrival for each in read(trace) if not each.after])
    if trace.is_dated and len(starts) > 1:
        faster = [each.arrival for each in read(good(name, speedup=4.0)) if not each.after]
        assert faster == pytest.approx(starts / 4)
        requests = read(good(name, rate=8.0))
        stretched = [each.arrival for each in requests if not each.after]
        gap = (stretched[-1] - stretched[0]) / (len(stretched) - 1)
        assert len(requests) / len(stretched) / gap == pytest.approx(8.0)
        pauses = [each.arrival for each in requests if each.after]
        assert pauses == [each.arrival for each in read(trace) if each.after]
    elif not trace.is_dated:
        with pytest.raises(InputError, match="speedup: cannot be used"):
            good(name, speedup=4.0)
        with pytest.raises(InputError, match="start: cannot be used"):
            good(name, start=1.0)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"something else\n", b"[1, 2]", b"{}"])
def test_other_content_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read(workload_of(f"{name}:{file}"))
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=r"is of none of azure, bailian, .*expected READER:PATH"):
        reader_of(str(file))


@pytest.mark.parametrize("name", READERS)
def test_a_file_cut_short_is_noticed(name: str, tmp_path: Path) -> None:
    """Wherever a record is cut: in the middle of its last line or of its document."""
    if name == "servegen":
        pytest.skip("a directory of files")
    file = tmp_path / "file"
    content = fixture(name).read_bytes().rstrip()
    cut = {"burstgpt": -len(b",30,API log"), "guidellm": len(content) // 2}.get(name, -3)
    file.write_bytes(content[:cut])
    with pytest.raises(InputError) as refused:
        read(workload_of(f"{name}:{file}"))
    assert str(file) in str(refused.value)


def test_two_formats_at_once_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "both.csv"
    file.write_text(
        "num_prefill_tokens,num_decode_tokens,Timestamp,Model,Request tokens,Response tokens,"
        "Log Type\n"
    )
    with pytest.raises(InputError, match=r"could be of burstgpt, vidur.*expected READER:PATH"):
        workload_of(str(file))


ODD = [
    "null", "true", "-1", "0", "1.5", "NaN", "-Infinity", "1e400", "9" * 400, "[]", "{}", "[[]]",
    '"text"', '""', "", "[1, null]", '{"a": 1}', "123456789012345678901234567890",
]  # fmt: skip
VALUE = re.compile(r'"[^"\\]*"|-?[0-9][0-9.eE+-]*|null|\[[^][]*\]|\{[^{}]*\}')


@pytest.mark.parametrize("name", READERS)
def test_whatever_stands_there_is_read_or_refused(name: str, tmp_path: Path) -> None:
    """One value after the other is replaced by something odd; nothing else may come of it."""
    rng = random.Random(name)
    folder = tmp_path / "files"
    if name == "servegen":
        folder.mkdir()
        for each in fixture(name).iterdir():
            (folder / each.name).write_bytes(each.read_bytes())
        victims = sorted(folder.iterdir())
    for _ in range(30):
        if name != "servegen":
            victims = [tmp_path / fixture(name).name]
            victims[0].write_bytes(fixture(name).read_bytes())
        victim = rng.choice(victims)
        text = victim.read_text()
        place = rng.choice(list(VALUE.finditer(text)))
        victim.write_text(text[: place.start()] + rng.choice(ODD) + text[place.end() :])
        try:
            spec = f"{name}:{folder if name == 'servegen' else victim}"
            requests = read(workload_of(spec, requests=40, repeat=2))
        except InputError as error:
            assert "\n" not in str(error)
            assert str(tmp_path) in str(error)
        else:
            for each in requests:
                assert each.prompt >= 1
                assert each.output >= 1
                assert 0 <= each.arrival < float("inf")
                if each.path is not None:
                    check_path(each.path, each.prompt + each.output)
        victim.write_text(text)


# One file, written in several ways.


def quoted(lines: list[str]) -> list[str]:
    return [", ".join(f'"{cell}"' for cell in line.split(",")) for line in lines]


def turned(lines: list[str]) -> list[str]:
    """The columns from the last to the first, and one in front that nobody knows."""
    return [
        ",".join([str(i) if i else "", *reversed(line.split(","))]) for i, line in enumerate(lines)
    ]


@pytest.mark.parametrize("name", ["azure", "burstgpt", "vidur"])
@pytest.mark.parametrize("change", [quoted, turned])
def test_csv_files_may_be_quoted_and_in_any_order(
    name: str, change: Callable[[list[str]], list[str]], tmp_path: Path
) -> None:
    file = tmp_path / "file.csv"
    file.write_text("\n".join(change(fixture(name).read_text().splitlines())))
    assert read(workload_of(str(file))) == read(good(name))


@pytest.mark.parametrize("name", [name for name in READERS if name != "servegen"])
@pytest.mark.parametrize(
    "rewrite",
    [
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.rstrip(b"\n") + b"\n\n\n",
        gzip.compress,
    ],
    ids=["crlf", "bom", "empty lines at the end", "gzip"],
)
def test_files_may_be_written_in_several_ways(
    name: str, rewrite: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(rewrite(fixture(name).read_bytes()))
    assert reader_of(str(file)) is WORKLOADS.load(name)
    assert read(workload_of(str(file))) == read(good(name))


@pytest.mark.parametrize("name", ["azure", "guidellm", "weka"])
def test_packed_files_that_are_damaged_are_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file.gz"
    packed = gzip.compress(fixture(name).read_bytes())
    for content in (packed[:-9], packed[:30] + b"\x00\xff" + packed[32:]):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be unpacked|expected") as refused:
            read(workload_of(f"{name}:{file}"))
        assert str(refused.value).startswith(str(file))


def test_counts_may_be_written_with_a_fraction_of_zero(tmp_path: Path) -> None:
    text = fixture("azure").read_text().splitlines()
    file = tmp_path / "file.csv"
    file.write_text("\n".join([text[0], *(re.sub(r",(\d+)", r",\1.0", row) for row in text[1:])]))
    assert read(workload_of(str(file))) == read(good("azure"))
    rows = [json.loads(row) for row in fixture("mooncake").read_text().splitlines()]
    for row in rows:
        row["input_length"] = float(row["input_length"])
    assert read(mooncake(tmp_path, *rows)) == read(good("mooncake"))


# Format by format.


def test_azure_2024() -> None:
    assert lengths(good("azure")) == [(0.0, 2162, 5), (1.0, 399, 6), (3.0, 76, 15)]


def changed(name: str, tmp_path: Path, change: Callable[[list[str]], list[str]]) -> str:
    """A copy of the good file with other lines."""
    file = tmp_path / fixture(name).name
    file.write_text("\n".join(change(fixture(name).read_text().splitlines())) + "\n")
    return f"{name}:{file}"


def test_burstgpt() -> None:
    requests = read(good("burstgpt"))
    assert [(each.arrival, each.prompt, each.output) for each in requests] == [
        (0.0, 472, 18), (113.0, 1087, 230), (115.0, 10, 20),
    ]  # fmt: skip
    assert [(each.conversation, each.turn) for each in requests] == [(0, 0), (0, 1), (None, 0)]
    assert [each.output for each in read(good("burstgpt", empty="one"))] == [18, 1, 230, 20]
    with pytest.raises(InputError, match=r":3: expected at least one token .* got 417 and 0"):
        read(good("burstgpt", empty="refuse"))
    assert lengths(good("burstgpt", model="GPT-4")) == [(75.0, 10, 20)]


def test_burstgpt_before_sessions(tmp_path: Path) -> None:
    """Release 1.1 has six columns."""
    spec = changed(
        "burstgpt",
        tmp_path,
        lambda lines: [",".join(np.delete(each.split(","), [1, 2])) for each in lines],
    )
    assert lengths(workload_of(spec)) == lengths(good("burstgpt"))
    assert {each.conversation for each in read(workload_of(spec))} == {None}


def test_vidur() -> None:
    assert lengths(good("vidur")) == [(0.0, 374, 44), (4.314579, 396, 109), (4.541877, 879, 55)]


def test_vidur_without_times() -> None:
    spec = str(FIXTURES / "vidur-lengths.csv")
    assert [each[1:] for each in lengths(workload_of(spec))] == [(374, 44), (396, 109)]
    drawn = [each.arrival for each in read(workload_of(spec, repeat=500, rate=5.0))]
    assert len(drawn) / drawn[-1] == pytest.approx(5.0, rel=0.1)
    assert drawn != [each.arrival for each in read(workload_of(spec, repeat=500, seed=1))]
    even = workload_of(spec, arrivals=ConstantRate(2.0))
    assert [each.arrival for each in read(even)] == [0.0, 0.5]
    loop = workload_of(spec, arrivals=ClosedLoop(1)).traffic()
    (first,) = loop.arrivals()
    (second,) = loop.completed(first, 3.0)
    assert (second.id, second.arrival) == (1, 3.0)


def test_bailian() -> None:
    a, b, c = read(good("bailian"))
    assert [each.arrival for each in (a, b, c)] == [0.0, 0.5, 9.0]
    assert [(each.conversation, each.turn) for each in (a, b, c)] == [(0, 0), (1, 0), (0, 1)]
    # Block by block: the same third block after another second one is another prefix.
    assert (shared(a, b), shared(a, c), shared(b, c)) == (16, 32, 16)
    assert a.path
    assert a.path[-2][1] == 40
    assert a.path[-1] == (OUTPUTS, 48)


def test_bailian_with_other_blocks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r":1: hash_ids: expected 2 blocks of 32 for 40 tokens"):
        read(good("bailian", block_size=32))


def test_weka() -> None:
    first, a1, a2, b1, join, last = read(good("weka"))
    assert [each.after for each in (first, a1, a2, b1, join, last)] == [
        (), (0,), (1,), (0,), (3, 2), (4,),
    ]  # fmt: skip
    # The agent starts a second after the end of the request in front of it and half a second
    # after it was called; the second request follows a second after the end of the first.
    assert [each.arrival for each in (a1, a2, b1)] == [1.5, 1.0, 0.25]
    # The agents are over after 4 and 9 seconds: at 12; what follows comes at 14. Then 60 at most.
    assert [each.arrival for each in (join, last)] == [2.0, 60.0]
    assert (a2.output, last.output) == (1, 2)
    assert [shared(first, each) for each in (a1, a2, b1, join, last)] == [64, 64, 64, 128, 128]
    assert shared(join, last) == 192
    assert [each.conversation for each in (first, a1, a2, b1, join)] == [0, 1, 1, 2, 0]
    assert good("weka").traffic().clients == 8


def weka(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(fixture("weka").read_text())
    return document | changes


def test_weka_documents(tmp_path: Path) -> None:
    """Ids of one conversation mean nothing in another, unless they are global."""
    one = tmp_path / "all.jsonl"
    folder = tmp_path / "traces"
    folder.mkdir()
    for scope, between in (("local", 0), ("global", 128)):
        documents = [json.dumps(weka(id=name, hash_id_scope=scope)) for name in "ab"]
        one.write_text("\n".join(documents) + "\n")
        for name, document in zip("ab", documents, strict=True):
            (folder / f"trace_{name}.json").write_text(document)
        requests = read(workload_of(str(one)))
        assert requests == read(workload_of(str(folder)))
        assert len(requests) == 12
        assert shared(requests[0], requests[6]) == between
        assert requests[10].after == (9, 8)


def test_weka_blocks_without_ids(tmp_path: Path) -> None:
    """Ids short of the prompt, and ids of blocks that are not full, mean nothing."""
    call = {"type": "n", "out": 1}
    entries = [
        call | {"t": n, "in": tokens, "hash_ids": ids}
        for n, (tokens, ids) in enumerate([(100, [1, 2]), (120, [1, 2]), (200, [1]), (64, [1, 9])])
    ]
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(weka(requests=entries)))
    requests = read(workload_of(str(file)))
    assert [shared(requests[0], each) for each in requests[1:]] == [64, 64, 64]


def test_weka_agents_nobody_waits_for(tmp_path: Path) -> None:
    document = weka()
    for entry in document["requests"][1:3]:
        entry["status"] = "async_launched"
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(document))
    requests = read(workload_of(str(file)))
    assert requests[4].after == (0,)
    assert requests[4].arrival == 12.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_size": 0}, "block_size: expected a whole number from 1"),
        ({"requests": [{"t": 0, "type": "n", "in": 9, "out": 1, "hash_ids": "a"}]}, "hash_ids: ex"),
        ({"requests": [{"t": 0, "type": "x"}]}, "type: expected n, s or subagent"),
        ({"requests": [{"type": "n", "in": 1, "out": 1}]}, "t: expected a finite time"),
        ({"requests": [3]}, "requests: expected a list of objects"),
    ],
)
def test_bad_weka_documents(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(weka(**change)))
    with pytest.raises(InputError) as refused:
        read(workload_of(f"weka:{file}"))
    assert f"{file}: document 1: " in str(refused.value)
    assert message in str(refused.value)


def test_llmservingsim() -> None:
    flat, one, two, last = read(good("llmservingsim"))
    assert [each.arrival for each in (flat, one, two, last)] == [0.0, 1.0, 0.25, 1.5]
    assert [each.after for each in (flat, one, two, last)] == [(), (), (1,), ()]
    assert (one.conversation, two.conversation, two.turn) == (0, 0, 1)
    assert (shared(flat, one), shared(flat, two), shared(one, two)) == (2, 3, 2)
    # What the first one generated begins with the token that the last prompt goes on with.
    assert shared(flat, last) == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"input_tok_ids": [5, 6, 7]', '"input_tok_ids": [5, 6]', "expected 3 ids"),
        ('"input_tok_ids": [5, 6, 7]', '"input_tok_ids": [5, 6, "a"]', "expected token ids"),
        ('"arrival_time_ns": 500000000', '"arrival": 5', "without arrival_time_ns"),
        ('"output_toks": 2', '"output_toks": -2', "output_toks: expected a whole number"),
        ('"output_toks": 2', '"output_toks": 0', "expected at least one token"),
    ],
)
def test_bad_llmservingsim_rows(old: str, new: str, message: str, tmp_path: Path) -> None:
    spec = changed(
        "llmservingsim", tmp_path, lambda lines: [lines[0].replace(old, new), *lines[1:]]
    )
    with pytest.raises(InputError) as refused:
        read(workload_of(spec))
    assert ":1: " in str(refused.value)
    assert message in str(refused.value)


def test_sharegpt() -> None:
    one, two, three = read(good("sharegpt-json", arrivals=ConstantRate(0.01)))
    # 40, 17, 1, 0 and 8 bytes; a text has at least one token.
    assert [(each.prompt, each.output) for each in (one, two, three)] == [
        (10, 5), (16, 1), (2, 1),
    ]  # fmt: skip
    assert [each.after for each in (one, two, three)] == [(), (0,), ()]
    assert two.arrival > 0
    assert (shared(one, two), shared(one, three)) == (15, 0)
    assert len(read(good("sharegpt-json", turns=1))) == 2
    assert len(read(good("sharegpt-json", max_context=16))) == 2
    with pytest.raises(InputError, match="at least one request"):
        read(good("sharegpt-json", max_context=2))


def test_sharegpt_in_lines(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    items = json.loads(fixture("sharegpt-json").read_text())
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    assert read(workload_of(str(file))) == read(good("sharegpt-json"))


def test_sharegpt_with_a_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"ok": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    trace = good("sharegpt-json", tokenizer=str(tmp_path / "tokenizer.json"))
    assert [(each.prompt, each.output) for each in read(trace)] == [(1, 1), (3, 1), (1, 1)]


def test_sharegpt_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(InputError, match="needs the package tokenizers"):
        read(ShareGPTFile(str(fixture("sharegpt-json")), tokenizer="tokenizer.json"))


def test_vllm_bench() -> None:
    assert lengths(good("vllm-bench")) == [(0.0, 20, 5), (0.5, 10, 4), (2.0, 30, 3)]


def rewritten(name: str, tmp_path: Path, change: Callable[[Any], Any]) -> str:
    """A copy of the good JSON document, changed."""
    document = json.loads(fixture(name).read_text())
    file = tmp_path / "report.json"
    file.write_text(json.dumps(change(document) or document))
    return f"{name}:{file}"


def test_vllm_bench_without_times(tmp_path: Path) -> None:
    spec = rewritten("vllm-bench", tmp_path, lambda each: each.pop("start_times") and each)
    assert [each[1:] for each in lengths(workload_of(spec))] == [(10, 4), (20, 5), (30, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_lens": [1]}, "expected lists of one length, got [1, 4]"),
        ({"input_lens": ["a"] * 4}, "input_lens: expected a list of numbers"),
        ({"output_lens": 0}, "output_lens: expected a list of numbers"),
    ],
)
def test_bad_vllm_results(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read(workload_of(rewritten("vllm-bench", tmp_path, lambda each: each | change)))
    assert message in str(refused.value)


def test_vllm_result_without_details(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        del document["input_lens"]

    with pytest.raises(InputError, match=r"expected input_lens, which .* with --save-detailed"):
        workload_of(rewritten("vllm-bench", tmp_path, change))


def test_inference_perf() -> None:
    assert lengths(good("inference-perf")) == [(0.0, 20, 5), (1.0, 10, 4), (4.0, 7, 8)]


def test_guidellm() -> None:
    assert lengths(good("guidellm")) == [(0.0, 10, 4), (0.5, 30, 3)]
    assert lengths(good("guidellm", benchmark=1)) == [(0.0, 1, 2)]
    with pytest.raises(InputError, match="expected JSON with 2 on the way to the requests"):
        read(good("guidellm", benchmark=2))


def test_servegen() -> None:
    requests = read(good("servegen", repeat=1, seed=5))
    times = np.array([each.arrival for each in requests])
    prompts = np.array([each.prompt for each in requests])
    outputs = np.array([each.output for each in requests])
    # One client has prompts of 10 and 20, the other of 7 tokens, and no lengths before 600 s.
    assert set(prompts[times < 600]) == {10, 20}
    assert set(prompts[(times >= 600) & (times < 1200)]) == {7}
    assert times[-1] < 1800
    one = prompts != 7
    assert one.sum() == pytest.approx(0.5 * 600 + 1.0 * 600, rel=0.15)
    assert (~one).sum() == pytest.approx(0.1 * 600, rel=0.4)
    assert (prompts[one] == 20).mean() == pytest.approx(0.75, abs=0.05)
    assert set(outputs[~one]) == {1, 2}
    assert set(outputs[one]) == {5}
    burst = np.diff(times[(times >= 1200)])
    assert burst.std() / burst.mean() == pytest.approx(2.0, rel=0.2)
    assert read(good("servegen", seed=6)) != requests
    assert {each.prompt for each in read(good("servegen", busiest=1))} == {10, 20}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("chunk-0-trace.csv", "0,1,1\n", "expected start,rate,cv,distribution"),
        ("chunk-0-trace.csv", "0,1,1,Pareto,1,1\n", "expected Gamma or Weibull gaps"),
        ("chunk-0-trace.csv", "600,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", "order of their starts"),
        ("chunk-0-trace.csv", "", "expected at least one window"),
        ("chunk-0-dataset.json", "[]", "expected a JSON object of windows"),
        ("chunk-0-dataset.json", '{"0": {"input_tokens": "{1: 1}"}}', "window 0: expected input"),
        ("chunk-0-dataset.json", '{"0": {"input_tokens": "open(1)", "output_tokens": "{1: 1.0}"}}',
         "window 0: expected input"),
    ],
)  # fmt: skip
def test_bad_chunks(name: str, content: str, message: str, tmp_path: Path) -> None:
    for each in fixture("servegen").iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as refused:
        read(workload_of(f"servegen:{tmp_path}"))
    assert str(tmp_path / name) in str(refused.value)
    assert message in str(refused.value)


# Mooncake's dialects.


def mooncake(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> Workload:
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workload_of(str(file), **options)


def test_mooncake_under_other_names(tmp_path: Path) -> None:
    names = {
        "timestamp": "created_time", "input_length": "input_tokens",
        "output_length": "output_tokens",
    }  # fmt: skip
    rows = [json.loads(text) for text in fixture("mooncake").read_text().splitlines()]
    renamed = [{names.get(key, key): value for key, value in row.items()} for row in rows]
    assert read(mooncake(tmp_path, *renamed)) == read(good("mooncake"))
    with pytest.raises(InputError, match="every field under one name"):
        read(mooncake(tmp_path, rows[0] | {"input_tokens": 3}))


def turn(session: str | None, prompt: int, **more: Any) -> dict[str, Any]:
    row = {"input_length": prompt, "output_length": 10} | more
    return row | ({"session_id": session} if session else {})


def test_mooncake_sessions(tmp_path: Path) -> None:
    """Rows of two sessions and a single one, mixed."""
    a1, a2, a3, b1, b2, single = read(
        mooncake(
            tmp_path,
            turn("a", 600, timestamp=1000, hash_ids=[1, 2]),
            turn("b", 100, timestamp=2000, hash_ids=[9]),
            turn("a", 1100, delay=500, hash_ids=[1, 3, 4]),
            turn(None, 100, timestamp=3000, hash_ids=[9]),
            turn("b", 200, timestamp=6000, hash_ids=[10]),
            turn("a", 1200, delay_ms=0, hash_ids=[1, 3, 5]),
        )
    )
    assert [each.after for each in (a1, a2, a3, b1, b2, single)] == [
        (), (0,), (1,), (), (3,), (),
    ]  # fmt: skip
    assert [each.arrival for each in (a1, a2, a3)] == [0.0, 0.5, 0.0]
    assert [each.arrival for each in (b1, b2, single)] == [1.0, 4.0, 2.0]
    assert (shared(a1, a2), shared(a2, a3), shared(b1, single)) == (512, 1024, 100)
    assert [(each.conversation, each.turn) for each in (a1, a3, b2, single)] == [
        (0, 0), (0, 2), (1, 1), (None, 0),
    ]  # fmt: skip


def test_mooncake_turns_that_add(tmp_path: Path) -> None:
    rows = [
        turn("a", 600, timestamp=0, hash_ids=[1, 2]), turn("a", 40, delay=5), turn("a", 7, delay=5),
    ]  # fmt: skip
    requests = read(mooncake(tmp_path, *rows, turns="added"))
    assert [each.prompt for each in requests] == [600, 650, 667]
    assert [shared(a, b) for a, b in pairwise(requests)] == [610, 660]


def test_mooncake_without_times(tmp_path: Path) -> None:
    rows = [turn(None, 100 + n, hash_ids=[n]) for n in range(200)]
    requests = read(mooncake(tmp_path, *rows, rate=4.0))
    assert len(requests) / requests[-1].arrival == pytest.approx(4.0, rel=0.2)
    assert mooncake(tmp_path, *[turn(None, 5, delay=3)]).prefix_identity.startswith("none")
    with pytest.raises(InputError, match=":2: expected a timestamp, as the first row has one"):
        read(mooncake(tmp_path, turn(None, 5, timestamp=0), turn(None, 5)))
    with pytest.raises(InputError, match=":2: expected hash_ids, as the first row has them"):
        read(mooncake(tmp_path, turn(None, 5, timestamp=0, hash_ids=[1]), turn(None, 5)))
    with pytest.raises(InputError, match=":2: expected times in order"):
        read(mooncake(tmp_path, turn(None, 5, timestamp=9), turn(None, 5, timestamp=3)))


def test_mooncake_rows_that_wait_for_others() -> None:
    """Dynamo's agentic rows: a fork and a join, a turn that follows its session, a join of two."""
    spec = str(FIXTURES / "mooncake-waiting.jsonl")
    a1, b1, a2, a3, single, q1, q2, q3, other = read(workload_of(spec))
    assert [each.prompt for each in (a1, b1, a2, a3)] == [600, 700, 1100, 1200]
    assert [each.after for each in (a1, b1, a2, a3)] == [(), (0,), (0, 1), (2,)]
    assert [each.arrival for each in (a1, b1, a2, a3)] == [0.0, 0.25, 0.5, 0.0625]
    assert [(each.conversation, each.turn) for each in (a1, b1, a2, a3)] == [
        (0, 0), (1, 0), (0, 1), (0, 2),
    ]  # fmt: skip
    assert (shared(a1, b1), shared(b1, a2), shared(a2, a3)) == (512, 512, 1024)
    # The second of the two that are waited for starts half a second after the first.
    assert [each.after for each in (single, q1, q2, q3, other)] == [(), (), (), (5, 6), ()]
    assert [each.arrival for each in (single, q1, q2, q3, other)] == [0.75, 2.0, 0.5, 0.0, 2.25]
    faster = read(workload_of(spec, speedup=2.0))
    assert [each.arrival for each in faster] == [0.0, 0.25, 0.5, 0.0625, 0.375, 1, 0.25, 0, 1.125]


def test_mooncake_rows_that_wait_are_sent_when_they_may() -> None:
    """2 s a request: who comes when, on the trace's clock from 1000 ms."""
    spec = str(FIXTURES / "mooncake-waiting.jsonl")
    order = [(request.id, start) for request, start, _ in served(workload_of(spec).traffic(), 0.2)]
    assert order == [
        (0, 0.0), (4, 0.75), (5, 2.0), (1, 2.25), (8, 2.25), (6, 2.5), (7, 4.5), (2, 4.75),
        (3, 6.8125),
    ]  # fmt: skip
    loop = ClosedTraffic(workload_of(spec).traffic().sessions(), 1)
    assert [(request.id, start) for request, start, _ in served(loop, 0.2)] == [
        (0, 0.0), (1, 2.25), (2, 4.75), (3, 6.8125), (4, 9.5625), (5, 13.5625), (6, 14.0625),
        (7, 16.0625), (8, 20.3125),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["mooncake-waiting", "vidur-lengths"])
def test_variants_are_written_once_and_again(name: str, tmp_path: Path) -> None:
    (file,) = FIXTURES.glob(f"{name}.*")
    write_requests(workload_of(str(file)), tmp_path / "one.jsonl")
    replayed = workload_of(str(tmp_path / "one.jsonl"))
    assert read(replayed) == read(workload_of(str(file)))
    write_requests(replayed, tmp_path / "two.jsonl")
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (2, {"wait_for": ["nobody"]}, "2: wait_for: expected names of rows of this file"),
        (1, {"wait_for": ["a2"]}, "1: wait_for: expected rows that do not wait for each other"),
        (3, {"request_id": "a1"}, "3: request_id: expected every name once, got 'a1' again"),
        (4, {"wait_for": [None]}, "4: wait_for: expected a list of request ids"),
        (4, {"tool_wait_ms": -1}, "4: tool_wait_ms: expected a finite time"),
        (5, {"timestamp": 0}, "5: expected times in order"),
        (8, {"wait_for": []}, "8: expected a timestamp, as the first row has one"),
        (8, {"dependencies": []}, "8: expected agentic rows with wait_for; got those of version 2"),
    ],
)
def test_bad_rows_that_wait(
    line: int, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    rows = (FIXTURES / "mooncake-waiting.jsonl").read_text().splitlines()
    rows[line - 1] = json.dumps(json.loads(rows[line - 1]) | change)
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(rows))
    with pytest.raises(InputError) as refused:
        read(workload_of(f"mooncake:{file}"))
    assert str(refused.value).startswith(f"{file}:{message}")


def test_version_2_of_agentic_rows_is_named(tmp_path: Path) -> None:
    file = tmp_path / "graph.jsonl"
    file.write_text('{"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 64}\n')
    with pytest.raises(InputError, match=r":1: expected agentic rows .* version 2"):
        read(workload_of(str(file)))


# kvlab's own sessions.


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ([5], "after: expected ids of earlier requests of the same session, got [5]"),
        ([2], "after: expected ids of earlier"),
        ("0", "after: expected ids of earlier"),
        ([0, 0], "after: expected ids of earlier"),
    ],
)
def test_bad_sessions(after: object, message: str, tmp_path: Path) -> None:
    rows = [json.loads(text) for text in fixture("jsonl").read_text().splitlines()]
    rows[3]["after"] = after
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError) as refused:
        read(Jsonl(str(file)))
    assert str(refused.value).startswith(f"{file}:4: {message}")


def test_requests_of_another_session_cannot_be_waited_for(tmp_path: Path) -> None:
    lines = fixture("jsonl").read_text().splitlines()
    last = json.loads(lines[4]) | {"id": 4, "after": [0]}
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join([lines[0].replace("4", "5"), *lines[1:], json.dumps(last)]))
    with pytest.raises(InputError, match=":6: after: expected ids of earlier requests"):
        read(Jsonl(str(file)))


# JSON in pieces.


def test_items_are_found_anywhere(tmp_path: Path) -> None:
    """Long texts around, brackets in strings, numbers at the borders of what was read."""
    padding = {"text": ']}[{\\"' * 20_000, "nested": [[{}], [], {"a": [1, 2.5e3, None, True]}]}
    wanted = [123456, -1.5, "ä", {"k": [1]}, None] * 9_000
    document = {"before": padding, "list": [[0], {"x": wanted, "y": 1}], "after": [padding]}
    file = tmp_path / "file.json"
    file.write_text(json.dumps(document, indent=1), encoding="utf-8")
    assert list(Items(str(file), ("list", 1, "x"))) == wanted
    assert members_of(str(file), frozenset({"list"})) == {"list": document["list"]}
    assert list(Documents(str(file))) == [document]


@pytest.mark.parametrize(
    "text",
    ["", "[", "[1,", "[1,]", "[1 2]", '{"a": 1}', "[1", "[nope]", '["a]', "1", "[" * 20_000],
)
def test_malformed_arrays_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text(text)
    with pytest.raises(InputError) as refused:
        list(Items(str(file)))
    assert "expected JSON" in str(refused.value)
