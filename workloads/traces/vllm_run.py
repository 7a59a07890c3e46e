"""A measured run of a vLLM server: what was sent, and when each request was where.

``requests.jsonl``: one object a request with ``input_toks``, ``output_toks``, ``arrival_time`` on
the wall clock, and ``queued_ts``, ``scheduled_ts``, ``first_token_ts``, ``last_token_ts`` on the
engine's monotonic one (vLLM's ``RequestStateStats``). ``workload.jsonl``, where there is one: the
token ids of the prompts of the same requests in the same order, as ``input_tok_ids``. What was
generated in the run is nowhere, so nobody shares it.

The two clocks differ by a constant, and a request is queued when the engine looks, between two
steps. So the constant is the least difference between queuing and arrival: the request with which
nothing was delayed is taken to be queued when it arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.errors import InputError
from workloads.prefix import PrefixTree
from workloads.request import PrefixPath, Request, Traffic, Workload
from workloads.traces.base import Stream
from workloads.traces.lines import Lines, shortened

Floats = NDArray[np.float64]

_CLOCKS = ("arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")


@dataclass(frozen=True)
class Times:
    """Seconds since the first arrival, one number a request."""

    arrival: Floats
    queued: Floats
    scheduled: Floats
    first_token: Floats
    last_token: Floats


class VllmRun(Workload):
    """The requests of a measured run, arriving when they really came; and what was measured.

    prompts, outputs: tokens, one number a request, in the order of arrival, which is that of the
    ids of the requests. Raises `InputError` for files that are not as described.
    """

    name = "vllm-run"

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        rows = list(self._rows())
        if not rows:
            raise InputError(f"{self.directory / 'requests.jsonl'}: expected at least one request")
        clocks = np.array([[row[name] for name in _CLOCKS] for row in rows], dtype=np.float64)
        self._order = np.argsort(clocks[:, 0], kind="stable")
        clocks = clocks[self._order]
        start = clocks[0, 0]
        engine = clocks[:, 1:] - (start + np.min(clocks[:, 1] - clocks[:, 0]))
        self.times = Times(clocks[:, 0] - start, *engine.T)
        self._tokens = np.array([[row["input_toks"], row["output_toks"]] for row in rows])
        self.prompts, self.outputs = self._tokens[self._order].T

    def _rows(self) -> Iterator[dict[str, Any]]:
        lines = Lines(str(self.directory / "requests.jsonl"))
        for text in lines:
            row = lines.object_of(text)
            for name in ("input_toks", "output_toks"):
                _need(lines, row, name)
                lines.whole(row, name, 1)
            for name in _CLOCKS:
                _need(lines, row, name)
                if type(row[name]) not in (int, float):
                    raise lines.error(f"{name}: expected seconds, got {shortened(row[name])}")
            if not row["queued_ts"] <= row["first_token_ts"] <= row["last_token_ts"]:
                raise lines.error("expected queued_ts <= first_token_ts <= last_token_ts")
            yield row

    @property
    def prefix_identity(self) -> str:
        """Exact where the token ids are there."""
        return "none: the run has no token ids" if self._paths is None else "exact"

    @cached_property
    def _paths(self) -> list[PrefixPath] | None:
        """Prefix paths from token ids, in the order of the file; None without them."""
        path = self.directory / "workload.jsonl"
        if not path.exists():
            return None
        lines, tree, paths = Lines(str(path)), PrefixTree(), []
        for number, text in enumerate(lines):
            row = lines.object_of(text)
            if number == len(self._tokens):
                raise lines.error("expected as many requests as in requests.jsonl, got more")
            prompt, output = self._tokens[number].tolist()
            _need(lines, row, "input_tok_ids")
            ids = row["input_tok_ids"]
            if type(ids) is not list or len(ids) != prompt:
                raise lines.error(
                    f"input_tok_ids: expected {prompt} ids as requests.jsonl says there"
                )
            try:
                shared = tree.path(ids)
            except InputError as error:
                raise lines.error(f"input_tok_ids: {error}") from error
            paths.append((*shared, (tree.private_branch(), prompt + output)))
        if len(paths) < len(self._tokens):
            raise lines.error(f"expected {len(self._tokens)} requests as in requests.jsonl")
        return paths

    def traffic(self) -> Traffic:
        """The requests from the first."""
        return Stream(self._requests())

    def _requests(self) -> Iterator[Request]:
        paths = self._paths
        for number, place in enumerate(self._order.tolist()):
            yield Request(
                number,
                float(self.times.arrival[number]),
                int(self.prompts[number]),
                int(self.outputs[number]),
                None if paths is None else paths[place],
            )


def _need(lines: Lines, row: dict[str, Any], name: str) -> None:
    if name not in row:
        raise lines.error(f"expected the field {name!r}")
