"""Request files of LLMServingSim 2 (casys-kaist/LLMServingSim, ``workloads/README.md``).

A line is a request (``input_toks``, ``output_toks``, ``arrival_time_ns``, and token ids where they
are known), or an agentic session: ``sub_requests`` one after the other, each sent
``tool_duration_ns`` after the one in front of it has ended. A file may have both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

from workloads.errors import InputError
from workloads.prefix import PrefixTree
from workloads.request import OUTPUTS, PrefixPath, Request, Session
from workloads.traces.base import Trace
from workloads.traces.head import Head
from workloads.traces.lines import Lines, shortened

_NANOSECOND = 1e-9


@dataclass(frozen=True)
class LLMServingSim(Trace[Lines]):
    """LLMServingSim files: JSONL of input_toks, output_toks, arrival_time_ns, or sub_requests.

    Arrivals count from the first line. With token ids prefixes are exact, outputs included where
    their ids are there; memory then grows with distinct contents.
    """

    name = "llmservingsim"

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """Nanoseconds beside either shape."""
        shapes = ({"arrival_time_ns", "input_toks"}, {"arrival_time_ns", "sub_requests"})
        return not head.is_array and any(head.keys >= shape for shape in shapes)

    def source(self) -> Lines:
        """The lines."""
        return Lines(self.path)

    @cached_property
    def prefix_identity(self) -> str:
        """Exact where the first request has token ids."""
        session = next(self.recorded(self.source()), None)
        known = session is not None and session[0].path is not None
        return "exact" if known else "none: the file has lengths only"

    def recorded(self, source: Lines) -> Iterator[Session]:
        """One session a line; the requests of an agentic one wait for each other."""
        numbers, outputs = count(), count(OUTPUTS)
        tree = PrefixTree()
        first: float | None = None
        conversations = count()
        for text in source:
            row = source.object_of(text)
            source.needs(row, "arrival_time_ns")
            at = source.seconds(row, "arrival_time_ns", _NANOSECOND)
            first = at if first is None else first
            calls, conversation = [row], None
            if "sub_requests" in row:
                calls, conversation = _calls(source, row["sub_requests"]), next(conversations)
            session: Session = []
            pause = at - first
            for turn, call in enumerate(calls):
                source.needs(call, "input_toks", "output_toks")
                prompt = source.whole(call, "input_toks", 0)
                output = source.whole(call, "output_toks", 0)
                path = _path(source, call, prompt, output, tree, outputs)
                after = (session[-1].id,) if session else ()
                session.append(
                    Request(
                        next(numbers), pause, prompt, output, path, conversation, turn, after=after
                    )
                )
                if turn + 1 < len(calls):
                    source.needs(call, "tool_duration_ns")
                    pause = source.seconds(call, "tool_duration_ns", _NANOSECOND)
            yield session


def _calls(source: Lines, value: Any) -> list[dict[str, Any]]:
    if type(value) is not list or not value or not all(type(each) is dict for each in value):
        raise source.error(f"sub_requests: expected a list of objects, got {shortened(value)}")
    return value


def _path(
    source: Lines,
    call: dict[str, Any],
    prompt: int,
    output: int,
    tree: PrefixTree,
    outputs: Iterator[int],
) -> PrefixPath | None:
    """The path by token ids, or None without them."""
    ids = call.get("input_tok_ids")
    if not ids:
        return None
    if type(ids) is not list or len(ids) != prompt:
        raise source.error(f"input_tok_ids: expected {prompt} ids as input_toks says")
    generated = call.get("output_tok_ids")
    if type(generated) is not list or len(generated) != output:
        generated = []
    try:
        path = tree.path([*ids, *generated])
    except InputError as error:
        raise source.error(f"input_tok_ids, output_tok_ids: {error}") from error
    return path if generated else (*path, (next(outputs), prompt + output))
