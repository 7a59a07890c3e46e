"""Published results and what kvlab makes of them, one small module each.

A module here has ``TITLE``, ``SOURCE`` (who published it), ``TARGET`` (what has to hold for exit
status 0), optionally ``FILES`` (of ``--data``), ``reproduce(data) -> Reproduction`` and optionally
``draw(found) -> matplotlib.figure.Figure``, and a line in `EXPERIMENTS`. They are imported when
they are run.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from workloads.errors import InputError
from workloads.registry import suggestion_for

EXPERIMENTS = {
    "kv-memory": "kvlab.reproduce.kv_memory",
    "gemma3-iswa-memory": "kvlab.reproduce.gemma3_iswa_memory",
    "jenga-waste": "kvlab.reproduce.jenga_waste",
    "vattention-mapping": "kvlab.reproduce.vattention_mapping",
    "streamingllm-window": "kvlab.reproduce.streamingllm_window",
    "pagedattention-fig2": "kvlab.reproduce.pagedattention_fig2",
    "pagedattention-sharing": "kvlab.reproduce.pagedattention_sharing",
    "pagedattention-blocksize": "kvlab.reproduce.pagedattention_blocksize",
    "pagedattention-swap": "kvlab.reproduce.pagedattention_swap",
    "preemption-tax": "kvlab.reproduce.preemption_tax",
    "summary-distortion": "kvlab.reproduce.summary_distortion",
    "mooncake-fig9": "kvlab.reproduce.mooncake_fig9",
}
"""Module of each experiment by its name, in the order of the page."""


def experiment_of(name: str) -> ModuleType:
    """The module of an experiment; raises `InputError` for a name that there is not."""
    if name not in EXPERIMENTS:
        raise InputError(f"unknown experiment {name!r}; {suggestion_for(name, EXPERIMENTS)}")
    return import_module(EXPERIMENTS[name])
