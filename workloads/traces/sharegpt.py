"""ShareGPT's conversations (``ShareGPT_V3_unfiltered_cleaned_split.json`` and its like).

A JSON array of objects, or one object a line, with ``conversations``, a list of messages: ``from``
(``human``, ``gpt``, ...) and ``value``, the text. The texts are not tokens, and there is no time in
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from workloads.errors import InputError
from workloads.lengths import MAX_TOKENS
from workloads.plugins import option
from workloads.request import Request, Session
from workloads.traces.head import Head
from workloads.traces.items import Documents, Items
from workloads.traces.lines import Source, shortened
from workloads.traces.undated import Undated

BYTES_PER_TOKEN = 4
_ANSWERS = {"gpt", "assistant", "chatgpt", "bing", "bard", "model"}


@dataclass(frozen=True)
class ShareGPTFile(Undated[Items | Documents]):
    """ShareGPT's conversations: JSON array, or lines, of conversations with from and value.

    A text has one token for every four bytes of UTF-8 or part of them, and at least one: a rule
    of thumb for English, not a count. With ``tokenizer``, the path of a ``tokenizer.json``, it has
    the tokens that the package ``tokenizers`` finds, without those of a chat template.

    A turn is all that the user says up to an answer; its prompt is the whole conversation so far.
    Messages in front of the first question and after the last answer are not sent. The next turn
    comes a think time after the answer before it: exponential, its mean an assumption.
    Conversations without a turn, or whose first turn is longer than ``max_context``, are left out;
    others end where the context is full.
    """

    name = "sharegpt-json"
    prefix_identity = "exact within a conversation; lost: texts that conversations share"

    turns: int | None = option(None, "turns of a conversation at most; none: all", low=1, high=1e6)
    think: float = option(10.0, "mean think time, seconds (exponential)", low=0, high=1e6)
    max_context: int | None = option(
        None, "tokens at which a conversation ends; none: no limit", low=2, high=MAX_TOKENS
    )
    tokenizer: str = option("", "a tokenizer.json to count with; empty: bytes / 4")

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """Conversations; the texts may reach beyond the head."""
        return "conversations" in head.keys

    def source(self) -> Items | Documents:
        """The conversations."""
        return Items(self.path) if Head.of(self.path).is_array else Documents(self.path)

    @cached_property
    def _tokens_of(self) -> Callable[[str], int]:
        if not self.tokenizer:
            return lambda text: max(1, -(-len(text.encode("utf-8")) // BYTES_PER_TOKEN))
        try:
            tokenizers = import_module("tokenizers")
        except ImportError as error:
            raise InputError(
                f"{self.name}: tokenizer: needs the package tokenizers (pip install tokenizers)"
            ) from error
        if not Path(self.tokenizer).is_file():
            raise InputError(f"{self.tokenizer}: expected a tokenizer.json")
        encode = tokenizers.Tokenizer.from_file(self.tokenizer).encode
        return lambda text: max(1, len(encode(text, add_special_tokens=False).ids))

    def recorded(self, source: Items | Documents) -> Iterator[Session]:
        """One session a conversation."""
        ids = count()
        rng = np.random.default_rng([self.seed, 1])
        conversations = count()
        for item in source:
            turns = list(self._turns(source, item))[: self.turns]
            if turns and not (self.max_context and sum(turns[0]) > self.max_context):
                yield self._session(turns, next(conversations), ids, rng)

    def _turns(self, items: Source, item: Any) -> Iterator[tuple[int, int]]:
        """Tokens of what the user says and of the answer, turn by turn."""
        messages = item.get("conversations") if type(item) is dict else None
        if type(messages) is not list:
            raise items.error(f"expected an object with conversations, got {shortened(item)}")
        asked = 0
        for message in messages:
            speaker, text = _message(items, message)
            if speaker not in _ANSWERS:
                asked += self._tokens_of(text)
            elif asked:
                yield asked, self._tokens_of(text)
                asked = 0

    def _session(
        self,
        turns: list[tuple[int, int]],
        conversation: int,
        ids: Iterator[int],
        rng: np.random.Generator,
    ) -> Session:
        session: Session = []
        context = 0
        pauses = rng.exponential(self.think, len(turns)).tolist()
        for turn, ((asked, answered), pause) in enumerate(zip(turns, pauses, strict=True)):
            prompt, context = context + asked, context + asked + answered
            if self.max_context is not None and context > self.max_context:
                break
            after = (session[-1].id,) if session else ()
            session.append(
                Request(
                    next(ids),
                    pause if session else 0.0,
                    prompt,
                    answered,
                    ((conversation, context),),
                    conversation,
                    turn,
                    after=after,
                )
            )
        return session


def _message(items: Source, message: Any) -> tuple[str, str]:
    if type(message) is dict:
        speaker = message.get("from", message.get("role"))
        text = message.get("value", message.get("content"))
        if type(speaker) is str and type(text) is str:
            return speaker, text
    raise items.error(f"expected messages with from and value, got {shortened(message)}")
