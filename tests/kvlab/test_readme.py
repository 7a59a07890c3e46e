"""What the README shows must work as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
KVLAB = Path(sys.executable).parent / "kvlab"


def test_the_policy_keeps_every_promise_and_is_compared(tmp_path):
    (policy,) = (block for block in BLOCKS if "class " in block)
    assert len([line for line in policy.splitlines() if line.strip()]) <= 28
    (tmp_path / "counted.py").write_text(policy)
    for arguments in (
        ["policies", "--check", "counted:Counted"],
        "compare --policies counted:Counted,paged --workload sharegpt --requests 30 --rate 10 "
        "--out report".split(),
    ):
        done = subprocess.run(
            [KVLAB, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "report.html").exists()


def test_the_python_example_runs():
    (example,) = (block for block in BLOCKS if "kvlab.compare" in block)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "paged" in done.stdout
