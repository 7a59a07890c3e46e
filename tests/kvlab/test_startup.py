"""Short commands import nothing that takes long, by what is there afterwards and not by time."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from sim.policies.listing import LISTED, listed, listed_anew, listed_policies
from sim.policies.ring import Ring
from sim.registries import POLICIES

HEAVY = "numpy pandas pydantic pydantic_core simpy scipy matplotlib rich pyarrow joblib".split()
ASKED = """
import sys
sys.argv = ["kvlab", *{arguments}]
from kvlab.cli import main
try:
    main()
finally:
    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["--help", "--version", "policies"])
def test_short_commands_import_nothing_heavy(command):
    code = ASKED.format(arguments=[command], heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout
    assert done.stderr.strip() == "[]"


def test_policies_are_listed_as_their_classes_are():
    assert LISTED.read_text("utf-8") == listed_anew(), (
        "run `python -m sim.policies.listing` and look at what has changed"
    )


def test_a_policy_of_ones_own_is_listed_by_its_class(monkeypatch):
    class Mine(Ring):
        """Mine alone."""

        lossy = "all is lost"

    monkeypatch.setattr("sim.policies.ring.Mine", Mine, raising=False)
    mine = EntryPoint("ring", "sim.policies.ring:Mine", POLICIES.group)
    monkeypatch.setattr(POLICIES, "_found", {"ring": mine})
    assert dict(listed_policies()) == {"ring": listed(Mine)}
    assert listed(Mine)["summary"] == "Mine alone."
    assert listed(Mine)["lossy"] == "all is lost"
    assert listed(Mine)["options"] == listed(Ring)["options"]
