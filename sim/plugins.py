"""What can be plugged into a simulation, by name: policies, schedulers, time models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sim.budget import Budget
from sim.compiled import inherits
from sim.hardware import hardware_of
from sim.policies.base import Policy
from sim.registries import POLICIES, SCHEDULERS, TIME_MODELS
from sim.schedulers.base import Scheduler
from sim.timing.base import TimeModel
from workloads.errors import InputError
from workloads.plugins import check_options, class_of, made
from workloads.registry import Registry

LIMITS = ("max_seqs", "max_batched_tokens", "max_model_len")
"""Limits of the budget that a scheduler may have as options."""


def policy_of(name: str, budget: Budget, options: Mapping[str, Any] | None = None) -> Policy:
    """A fresh policy of that name (or ``package.module:Class``) over ``budget``.

    ``options`` are fields of its ``Options``; text is converted. Raises `InputError` for unknown
    names and options and for values that do not fit.
    """
    cls = _class_of(POLICIES, name, Policy)
    return cls(budget, _options_of(cls, name, options))


def scheduler_of(name: str, policy: Policy, options: Mapping[str, Any] | None = None) -> Scheduler:
    """A fresh scheduler over ``policy``; limits that ``options`` leave out are the budget's."""
    cls = _class_of(SCHEDULERS, name, Scheduler)
    known = {field.name for field in fields(cls.Options)}
    limits = {limit: getattr(policy.budget, limit) for limit in LIMITS if limit in known}
    return cls(policy, _options_of(cls, name, limits | dict(options or {})))


def time_model_of(spec: str, budget: Budget, hardware: str) -> TimeModel:
    """The time model that ``NAME[:PATH]`` names, for a model on a device.

    Instead of a registered name also ``package.module:Class``.
    """
    found, path = class_of(TIME_MODELS, spec)
    name = spec.removesuffix(f":{path}")
    cls, sheet = _required(TIME_MODELS, name, found, TimeModel), hardware_of(hardware)
    if budget.devices == 1:
        return cls.of(budget, sheet, path)
    if not cls.divisible:
        raise InputError(f"{name} was measured for whole models: it takes no tensor_parallel")
    from sim.timing.exchange import Exchange, TensorParallel

    return TensorParallel(cls.of(budget, sheet, path), Exchange(budget, sheet))


def _class_of(registry: Registry, name: str, base: type) -> Any:
    return _required(registry, name, registry.load(name), base)


def _required(registry: Registry, name: str, cls: Any, base: type) -> Any:
    if not inherits(cls, base):
        raise InputError(
            f"{name!r} is not a {registry.kind}: expected a subclass of "
            f"{base.__module__}.{base.__name__}"
        )
    return cls


def _options_of(cls: Any, name: str, options: Mapping[str, Any] | None) -> Any:
    try:
        chosen = made(cls.Options, options or {})
        check_options(chosen)
        return chosen
    except InputError as error:
        raise InputError(str(error).replace(cls.Options.__name__, name, 1)) from None
