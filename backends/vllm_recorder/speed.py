"""How fast vLLM's scheduler does the steps of a recording, and how fast ours does.

``python -m backends.vllm_recorder.speed RECORDING...`` where vLLM is installed. Both are given the
same requests at the same steps, made beforehand (vLLM's with the hashes of their prompts), and
both are timed over adding, scheduling and updating only: what vLLM is told to have sampled is
prepared off the clock. The best of three runs counts, in CPU seconds of one process.
"""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from backends.conformance.recording import Record, find_recordings, read_records
from backends.conformance.vllm_speed import replay_timed
from backends.vllm_recorder.engine import Engine, require_vllm
from workloads.errors import InputError

RUNS = 3


@dataclass(frozen=True, slots=True)
class Speed:
    """CPU seconds of both for so many steps; whether both finished the same requests in order."""

    name: str
    steps: int
    vllm_s: float
    kvlab_s: float
    agree: bool

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.vllm_s / self.kvlab_s


def compare(path: Path) -> Speed:
    """Both on one recording."""
    ours = min((replay_timed(path) for _ in range(RUNS)), key=lambda timed: timed.cpu_s)
    seconds, steps, finished = min((_vllm_timed(path) for _ in range(RUNS)), key=lambda run: run[0])
    agree = steps == ours.steps and finished == list(ours.finished)
    return Speed(path.name, steps, seconds, ours.cpu_s, agree)


def _vllm_timed(path: Path) -> tuple[float, int, list[str]]:
    header, requests, events = _read(path)
    engine = Engine(header["config"], log_stats=False)
    made = {name: engine.request(record) for name, record in requests.items()}
    spent, steps, finished = 0.0, 0, []
    gc.collect()
    clock = time.process_time
    for added, aborted, idle in events:
        before = clock()
        for name in added:
            engine.scheduler.add_request(made[name])
        for name in aborted:
            engine.abort(name)
        if idle:
            spent += clock() - before
            continue
        output = engine.scheduler.schedule()
        spent += clock() - before
        _, tokens = engine.tokens_of(output)
        before = clock()
        told = engine.scheduler.update_from_output(output, tokens)
        spent += clock() - before
        finished += engine.finished_of(told)
        steps += 1
    return spent, steps, [name for name, _ in finished]


Event = tuple[list[str], list[str], bool]


def _read(path: Path) -> tuple[Record, dict[str, Record], list[Event]]:
    """Header, requests by id, and per recorded step who comes, who is aborted, and whether idle."""
    header: Record = {}
    requests: dict[str, Record] = {}
    events: list[Event] = []
    for _, record in read_records(path):
        if record["type"] == "trace":
            header = record
        elif record["type"] == "req":
            requests[record["id"]] = record
        elif record["type"] == "step":
            events.append((record["add"], record["abort"], bool(record.get("idle"))))
    return header, requests, events


def main(arguments: list[str]) -> int:
    """Print a line for every recording; 1 where one was not replayed alike, 2 for bad input."""
    try:
        version = require_vllm()
        paths = [found for each in arguments for found in find_recordings(Path(each))]
        return _print_table(version, paths)
    except (InputError, OSError) as error:
        print(f"speed: {error}", file=sys.stderr)
        return 2


def _print_table(version: str, paths: list[Path]) -> int:
    alike = True
    print(f"vLLM {version}, Python {sys.version.split()[0]}, best of {RUNS} runs")
    print(f"{'recording':32} {'steps':>6} {'vLLM s':>8} {'kvlab s':>8} {'faster':>7}")
    for path in paths:
        speed = compare(path)
        alike &= speed.agree
        doubt = "" if speed.agree else "  the two did not do the same"
        print(
            f"{speed.name:32} {speed.steps:6} {speed.vllm_s:8.3f} {speed.kvlab_s:8.4f} "
            f"{speed.ratio:6.1f}x{doubt}"
        )
    return 0 if alike else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
