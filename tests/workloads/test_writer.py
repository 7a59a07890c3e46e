"""Writing requests and replaying them."""

import heapq
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.arrivals import ClosedLoop
from workloads.errors import InputError
from workloads.request import PrefixPath, Request, Traffic, Workload
from workloads.synthetic.chat import Chat
from workloads.synthetic.long_context import LongContext
from workloads.synthetic.sharegpt import ShareGPT
from workloads.traces.base import Stream
from workloads.traces.jsonl import Jsonl
from workloads.traces.mooncake import Mooncake
from workloads.traces.writer import write_requests

DATA = Path(__file__).parent / "data"


@dataclass
class Given(Workload):
    requests: list[Request]
    name = "given"
    prefix_identity = 'lost: "somewhere"'

    def traffic(self) -> Traffic:
        return Stream(iter(self.requests))


def read(workload: Workload) -> list[Request]:
    return list(workload.traffic().arrivals())


@pytest.mark.parametrize(
    "workload",
    [
        ShareGPT(requests=3000),
        LongContext(requests=500, documents=4),
        Mooncake(str(DATA / "mooncake.jsonl")),
    ],
    ids=lambda each: each.name,
)
def test_replays_to_the_same_requests(workload: Workload, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    assert write_requests(workload, file) == len(read(workload))
    replayed = Jsonl(str(file))
    assert read(replayed) == read(workload)
    assert replayed.prefix_identity == workload.prefix_identity
    again = tmp_path / "again.jsonl"
    write_requests(replayed, again)
    assert again.read_bytes() == file.read_bytes()
    assert json.loads(file.open().readline())["requests"] == len(read(workload))


@st.composite
def paths(draw: st.DrawFn, length: int) -> PrefixPath | None:
    ends = draw(st.sets(st.integers(1, length), max_size=4)) | {length}
    branches = draw(
        st.lists(st.integers(0, 2**63 - 1), min_size=len(ends), max_size=len(ends), unique=True)
    )
    return draw(st.sampled_from([None, tuple(zip(branches, sorted(ends), strict=True))]))


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    times = sorted(draw(st.lists(st.floats(0, 1e9), min_size=1, max_size=6)))
    made = []
    for number, at in enumerate(times):
        prompt, output = draw(st.integers(1, 10**9)), draw(st.integers(1, 10**9))
        path = draw(paths(prompt + output))
        counts = st.integers(1, 10**9)
        made.append(
            Request(
                2 * number, at, prompt, output, path,
                draw(st.none() | st.integers(0, 2**63 - 1)), draw(counts), draw(counts),
                draw(counts), draw(st.integers(-5, 5)), draw(st.text()),
            )
        )  # fmt: skip
    return made


@settings(max_examples=40)
@given(requests())
def test_every_field_survives(made: list[Request]) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "out.jsonl"
        write_requests(Given(made), file)
        assert read(Jsonl(str(file))) == made
        assert Jsonl(str(file)).prefix_identity == 'lost: "somewhere"'


def served(workload: Workload, clock: Callable[[Request], float]) -> list[Request]:
    """All requests in order of arrival, from an engine with room for everybody."""
    traffic = workload.traffic()
    coming = [(each.arrival, each.id, each) for each in traffic.arrivals()]
    heapq.heapify(coming)
    ends: list[tuple[float, int, Request]] = []
    seen = []
    while coming or ends:
        if coming and (not ends or coming[0][0] <= ends[0][0]):
            at, number, request = heapq.heappop(coming)
            seen.append(request)
            heapq.heappush(ends, (at + clock(request), number, request))
        else:
            at, _, ended = heapq.heappop(ends)
            for each in traffic.completed(ended, at):
                heapq.heappush(coming, (each.arrival, each.id, each))
    return seen


@pytest.mark.parametrize(
    "workload",
    [
        Chat(requests=50),
        Chat(requests=50, arrivals=ClosedLoop(3)),
        ShareGPT(requests=50, arrivals=ClosedLoop(4)),
    ],
)
def test_closed_loops_stay_closed(workload: Workload, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    assert write_requests(workload, file) == 50
    replayed = Jsonl(str(file))
    for clock in (lambda each: 0.5, lambda each: each.output / 7 + each.id % 3):
        assert served(replayed, clock) == served(workload, clock)
    write_requests(replayed, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == file.read_bytes()


class Echo(Traffic):
    """A closed loop that an engine alone can drive."""

    def arrivals(self) -> Iterator[Request]:
        yield Request(0, 0.0, 1, 1)

    def completed(self, request: Request, at: float) -> list[Request]:
        return [Request(request.id + 1, at, 1, 1)] if request.id < 3 else []


def test_loops_that_do_not_say_what_waits_for_what_are_refused(tmp_path: Path) -> None:
    class Loop(Given):
        def traffic(self) -> Traffic:
            return Echo()

    with pytest.raises(InputError, match="request 0 sets off another one"):
        write_requests(Loop([]), tmp_path / "out.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    write_requests(ShareGPT(requests=5), file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_requests(Given([Request(0, float("nan"), 1, 1)]), file)
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["out.jsonl"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "none" / "out.jsonl", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot be written"):
            write_requests(ShareGPT(requests=5), target)
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
