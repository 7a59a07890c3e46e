"""kvlab: which way of managing the KV cache serves best, and why.

    import kvlab
    result = kvlab.compare(model="llama-3.1-8b", workload="sharegpt", requests=200, rate=5,
                           kv_tokens=65536, policies=["contiguous", "paged"])
    result.summary      # one row a policy
    result.requests     # one row a sequence
    result.timeline     # one row a sample

What users need is re-exported here; importing it costs nothing until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvlab.siblings import shadowed

if TYPE_CHECKING:
    from kvlab.api import ComparisonResult, compare
    from sim.budget import Budget
    from sim.decode_run import DecodeRun
    from sim.policies.base import Policy
    from sim.usage import Usage
    from workloads.errors import InputError
    from workloads.request import Request, Traffic, Workload

__version__ = "0.1.0"

_HOMES = {
    "Budget": "sim.budget",
    "ComparisonResult": "kvlab.api",
    "DecodeRun": "sim.decode_run",
    "InputError": "workloads.errors",
    "Policy": "sim.policies.base",
    "Request": "workloads.request",
    "Traffic": "workloads.request",
    "Usage": "sim.usage",
    "Workload": "workloads.request",
    "compare": "kvlab.api",
}

__all__ = [
    "Budget",
    "ComparisonResult",
    "DecodeRun",
    "InputError",
    "Policy",
    "Request",
    "Traffic",
    "Usage",
    "Workload",
    "compare",
]

_problem = shadowed()
if _problem:
    raise ImportError(_problem)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kvlab' has no attribute {name!r}")
