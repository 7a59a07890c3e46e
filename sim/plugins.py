"""What can be plugged into a simulation, by name: policies, schedulers, time models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.budget import Budget
from sim.policies.base import Policy
from workloads.errors import InputError
from workloads.plugins import made
from workloads.registry import Registry

POLICIES = Registry("policy", "kvlab.policies")
SCHEDULERS = Registry("scheduler", "kvlab.schedulers")
TIME_MODELS = Registry("time model", "kvlab.time_models")


def policy_of(name: str, budget: Budget, options: Mapping[str, Any] | None = None) -> Policy:
    """A fresh policy of that name (or ``package.module:Class``) over ``budget``.

    ``options`` are fields of its ``Options``; text is converted. Raises `InputError` for unknown
    names and options and for values that do not fit.
    """
    cls = POLICIES.load(name)
    if not (isinstance(cls, type) and issubclass(cls, Policy)):
        raise InputError(f"{name!r} is not a policy: expected a subclass of sim.policies.base.Policy")
    try:
        chosen = made(cls.Options, options or {})
    except InputError as error:
        raise InputError(str(error).replace("Options", name, 1)) from None
    return cls(budget, chosen)
