"""The interface of a time model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.budget import Budget
from sim.compiled import mypyc_attr
from sim.hardware import HardwareSheet
from sim.step import Work

Seconds: TypeAlias = "float | NDArray[np.float64]"


@mypyc_attr(allow_interpreted_subclasses=True)
class DecodeClock(ABC):
    """Times steps that do nothing but decode, by what attention reads in them.

    start: seconds of a step but for its attention, which is added group by group.
    """

    def __init__(self, start: float) -> None:
        self.start = start

    @abstractmethod
    def attention(self, group: int, cells: int, pairs: int, gathers: int) -> float:
        """Seconds that a layer group takes to read that.

        Negative where more pairs would have made a difference, so that steps that load the same
        would not all take the same time.
        """


@mypyc_attr(allow_interpreted_subclasses=True)
class TimeModel(ABC):
    """How long a step takes. The only thing that knows the hardware."""

    name: ClassVar[str]
    sees_prefills: ClassVar[bool] = False
    """Whether ``work.prefills`` matters; runs that compute prompts again then go step by step."""
    divisible: ClassVar[bool] = True
    """Whether times follow from the budget's model, be it a part of one (tensor parallelism)."""

    @classmethod
    @abstractmethod
    def of(cls, budget: Budget, hardware: HardwareSheet, path: str) -> Self:
        """The model for ``budget.model`` on a device; ``path``: what stood behind the name.

        Raises `InputError` where the path is missing, not wanted, or not readable.
        """

    @abstractmethod
    def seconds(self, work: Work) -> Seconds:
        """Duration of the step, or of each step where ``work`` is a decode run.

        Element by element the same operations in the same order, so that a run of steps gets the
        same bits as its steps one by one.
        """

    def decode_clock(self, sequences: int) -> DecodeClock | None:
        """`seconds` for decode steps of so many sequences whose reads are numbers.

        None where there is no such clock, because other things than reads count; so for whoever
        derives from a model with a clock and times steps in another way.
        """
        del sequences
        return None

    @abstractmethod
    def swap_seconds(self, n_bytes: int, to_host: bool) -> float:
        """Time that the host link is busy with a transfer of ``n_bytes``."""
