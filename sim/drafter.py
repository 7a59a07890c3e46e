"""What drafting costs: a share of the model's own time, or the passes of a draft model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from sim.model import ModelSpec
from sim.reads import exact_reads, exact_reads_of_run
from sim.step import Placement, Step, Work
from sim.timing.base import TimeModel
from sim.work import work_of


class Drafter(ABC):
    """Whoever proposes tokens.

    has_cache: whether it keeps K/V in a cache of its own, of as many tokens as the model's.
    """

    has_cache: ClassVar[bool] = False

    @abstractmethod
    def seconds(self, step: Step, verifying: float, lengths: list[int], passes: int) -> float:
        """Time that drafting adds to a step which takes the model ``verifying`` seconds.

        lengths: tokens of every sequence that is drafted for. passes: tokens that are drafted for
        each of them after the first pass, which goes over the tokens of the step.
        """


class Heads(Drafter):
    """Heads of the model, or anything else that costs a share of the model's own time.

    share: time of one drafted token over that of a step, the ``c`` of Leviathan et al. (2023,
    section 3.3). tokens: drafted in every step.
    """

    def __init__(self, share: float, tokens: int) -> None:
        self._share = share * tokens

    def seconds(self, step: Step, verifying: float, lengths: list[int], passes: int) -> float:
        """The share of the whole step, whoever runs in it."""
        return self._share * verifying


class DraftModel(Drafter):
    """A small model that decodes token by token, for all sequences at once.

    It runs once over all that the step computes, prompts included, since its own cache needs K/V
    of the same tokens. That cache is read as if each sequence lay in it by itself.
    """

    has_cache = True

    def __init__(self, model: ModelSpec, time_model: TimeModel) -> None:
        self._groups = model.groups()
        self._time_model = time_model

    def seconds(self, step: Step, verifying: float, lengths: list[int], passes: int) -> float:
        """The pass over the step's tokens, and the others one after the other."""
        placement = Placement(step.runs, exact_reads(self._groups, step.runs))
        total = float(self._time_model.seconds(work_of(step, placement)))
        if not (lengths and passes):
            return total
        seconds = self._time_model.seconds(self._decodes(lengths, passes))
        return total + float(np.broadcast_to(seconds, passes).sum())

    def _decodes(self, lengths: list[int], passes: int) -> Work:
        """One token of every sequence, so many times over."""
        held = np.array(lengths, dtype=np.int64)
        n, total, squares = len(held), int(held.sum()), int((held * held).sum())
        grown = np.arange(1, passes + 1, dtype=np.int64)
        return Work(
            tokens=n,
            sequences=n,
            reads=exact_reads_of_run(self._groups, held, passes),
            decodes=n,
            decode_context=total + n * grown,
            decode_squares=squares + 2 * total * grown + n * grown * grown,
            decode_longest=int(held.max()) + grown,
            steps=passes,
        )
