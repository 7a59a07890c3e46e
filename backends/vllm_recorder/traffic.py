"""Random requests of one recording: token ids that share prefixes, arrivals, aborts."""

from __future__ import annotations

from random import Random

from backends.conformance.recording import Record
from backends.vllm_recorder.configs import longest_of

Runs = list[list[int]]
"""Token ids as runs ``[start, n]``: start, start + 1, ..., n of them."""


def first_of(runs: Runs, n: int) -> Runs:
    """The first ``n`` tokens."""
    kept: Runs = []
    for start, size in runs:
        if n <= 0:
            break
        kept.append([start, min(size, n)])
        n -= size
    return kept


def expanded(runs: Runs) -> list[int]:
    """The token ids themselves."""
    return [token for start, n in runs for token in range(start, start + n)]


def draw_requests(rng: Random, config: Record, kind: str) -> list[Record]:
    """``req`` records in the order of arrival, for the settings of a recording of ``kind``."""
    return _Requests(rng, config, kind).draw()


def draw_aborts(rng: Random, requests: list[Record], kind: str) -> list[tuple[int, str]]:
    """(step, id) of requests to be aborted if they are there then, in the order of steps."""
    if kind != "abort":
        return []
    some = rng.sample(requests, max(1, len(requests) // 4))
    return sorted((each["arrival"] + rng.choice((0, 0, 1, 3, 10, 40)), each["id"]) for each in some)


class _Requests:
    def __init__(self, rng: Random, config: Record, kind: str) -> None:
        self._rng = rng
        self._config = config
        self._kind = kind
        self._fresh = 1
        self._made: list[Record] = []
        room = longest_of(config)
        share = {"big": 0.05, "stall": 1.3}.get(kind, rng.choice((0.15, 0.4, 0.8)))
        #: Prompt and output together: a request that never fits blocks the queue for ever.
        self._longest = min(max(2, int(room * share)), config["max_model_len"] - 1, 1200)
        self._output = max(1, int(self._longest * rng.choice((0.1, 0.3, 0.5))))
        self._shares = rng.choice((0.0, 0.5, 0.9)) if kind == "stall" else rng.random()
        self._salts = rng.random() < 0.1
        self._skips = rng.random() < 0.1

    def draw(self) -> list[Record]:
        rng = self._rng
        count = rng.randint(400, 800) if self._kind == "big" else rng.randint(7, 55)
        gap = rng.choice((0.0, 0.0, 0.3, 1.0, 4.0))
        at = rng.choice((0, 0, rng.randint(1, 30)))
        for number in range(count):
            self._made.append(self._request(number, at))
            if self._kind == "big":
                at += rng.random() < 0.5
            elif rng.random() > 0.4 and gap:
                at += int(rng.expovariate(1 / gap) + 0.5)
        return self._made

    def _request(self, number: int, arrival: int) -> Record:
        rng = self._rng
        prompt = self._prompt()
        length = sum(n for _, n in prompt)
        room = max(1, self._longest - length)
        if self._kind == "maxlen" and rng.random() < 0.5:
            room = self._config["max_model_len"] + 20
        output = rng.randint(1, max(1, min(self._output, room)))
        return {
            "id": f"r{number}",
            "arrival": arrival,
            "arrival_time": round(arrival + number * 1e-5, 5),
            "priority": rng.choice((-1, 0, 0, 1, 3)) if self._config["policy"] == "priority" else 0,
            "prompt": prompt,
            "output": self._answer(prompt, output),
            "max_tokens": output,
            "min_tokens": 0,
            "salt": rng.choice((None, "a", "b")) if self._salts else None,
            "skip_cache_read": self._skips and rng.random() < 0.3,
        }

    def _prompt(self) -> Runs:
        """Fresh, or the beginning of an earlier conversation and something fresh behind it."""
        rng = self._rng
        length = rng.randint(1, max(1, self._longest - 1))
        begun: Runs = []
        if self._made and rng.random() < self._shares:
            other = rng.choice(self._made[-30:])
            begun = [*other["prompt"], *(other["output"] if rng.random() < 0.4 else ())]
            whole = sum(n for _, n in begun)
            begun = first_of(begun, rng.choice((whole, whole, rng.randint(0, whole))))
            if rng.random() < 0.25:
                return first_of(begun, length) or self._tokens(length)
        begun = first_of(begun, length - 1)
        return begun + self._tokens(length - sum(n for _, n in begun))

    def _answer(self, prompt: Runs, n: int) -> Runs:
        """What an equal prompt was answered before, now and then; else fresh."""
        for other in self._made:
            if other["prompt"] == prompt and other["max_tokens"] >= n and self._rng.random() < 0.5:
                return first_of(other["output"], n)
        return self._tokens(n)

    def _tokens(self, n: int) -> Runs:
        start, self._fresh = self._fresh, self._fresh + n
        return [[start, n]]
