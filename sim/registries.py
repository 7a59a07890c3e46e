"""Where the parts of a simulation are found by name; importing this imports none of them."""

from __future__ import annotations

from workloads.registry import Registry

POLICIES = Registry("policy", "kvlab.policies")
SCHEDULERS = Registry("scheduler", "kvlab.schedulers")
TIME_MODELS = Registry("time model", "kvlab.time_models")
