"""The interface of a router: which replica takes a request.

A router knows what it has sent where and what came back, as a gateway does; it does not look
into the engines. So what it decides cannot depend on how the engines are stepped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.compiled import inherits
from workloads.errors import InputError
from workloads.plugins import check_options, made
from workloads.registry import Registry
from workloads.request import Request

ROUTERS = Registry("router", "kvlab.routers")


@dataclass(slots=True)
class Load:
    """What one replica has been sent and has not completed.

    requests: how many. tokens: their prompts and outputs together.
    """

    requests: int = 0
    tokens: int = 0


class Router(ABC):
    """Base class of all routers. Used for one run."""

    name: ClassVar[str]

    @dataclass(frozen=True)
    class Options:
        """Options of the router; a subclass defines its own frozen dataclass of this name."""

    def __init__(self, replicas: int, seed: int, options: Any = None) -> None:
        self.replicas = replicas
        self.seed = seed
        self.options = self.Options() if options is None else options

    @abstractmethod
    def choose(self, request: Request, loads: SequenceOf[Load]) -> int:
        """The replica that takes ``request``; ``loads`` are those of all replicas, in order."""


def least_loaded(candidates: Iterable[int], loads: SequenceOf[Load], by: str) -> int:
    """The candidate with the least outstanding ``requests`` or ``tokens``, the first of equals."""
    return min(candidates, key=lambda replica: (getattr(loads[replica], by), replica))


def router_of(name: str, replicas: int, seed: int, options: Mapping[str, Any]) -> Router:
    """A fresh router of that name (or ``package.module:Class``) over so many replicas.

    Raises `InputError` for unknown names and options and for values that do not fit.
    """
    cls = ROUTERS.load(name)
    if not inherits(cls, Router):
        raise InputError(f"{name!r} is not a router: expected a subclass of sim.cluster.Router")
    try:
        chosen = made(cls.Options, options)
        check_options(chosen)
    except InputError as error:
        raise InputError(str(error).replace("Options", name, 1)) from None
    return cls(replicas, seed, chosen)
