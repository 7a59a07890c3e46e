"""What a list says of policies: of the built-in ones without importing them.

Importing a policy takes NumPy and half of the simulator, several times as long as printing a list.
So the built-in ones are described in ``listed.json``, by what their entry points name; a test
compares it with the classes, and ``python -m sim.policies.listing`` writes it anew. Policies that
are not in it, such as a user's own, are imported.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from sim.registries import POLICIES

LISTED = Path(__file__).with_name("listed.json")

Listed = dict[str, Any]
"""summary: one line. lossy: as in the class. options: name, default and text of each."""


def listed_policies() -> Iterator[tuple[str, Listed]]:
    """All registered policies by name, in order."""
    known = json.loads(LISTED.read_text("utf-8"))
    for name in POLICIES.names():
        yield name, known.get(POLICIES.target_of(name)) or listed(POLICIES.load(name))


def listed(policy: Any) -> Listed:
    """What a list says of a policy's class."""
    return {
        "summary": (inspect.getdoc(policy) or "").partition("\n")[0],
        "lossy": policy.lossy,
        "options": [
            [each.name, str(each.default), each.metadata.get("text", "")]
            for each in fields(policy.Options)
        ],
    }


def listed_anew() -> str:
    """What ``listed.json`` should hold: all registered policies of this package."""
    targets = {POLICIES.target_of(name): name for name in POLICIES.names()}
    ours = {
        target: listed(POLICIES.load(name))
        for target, name in sorted(targets.items())
        if target.startswith("sim.policies.")
    }
    return json.dumps(ours, indent=1) + "\n"


if __name__ == "__main__":
    LISTED.write_text(listed_anew(), "utf-8")
