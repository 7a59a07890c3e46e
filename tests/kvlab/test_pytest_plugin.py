"""The fixture `kvlab_check`, in a test suite of its own."""

import subprocess
import sys
import textwrap

from kvlab.study.gate import baseline_of
from kvlab.study.schema import Study


def test_a_suite_fails_with_what_changed(tmp_path):
    study = Study.of(
        {
            "title": "Suite",
            "workload": "chat",
            "requests": 15,
            "kv_tokens": 4096,
            "seeds": 1,
            "policies": ["paged"],
            "max_seqs": 4,
        }
    )
    baseline_of(study, jobs=1).save(tmp_path / "base.json")
    (tmp_path / "test_memory.py").write_text(
        textwrap.dedent("""
        import sim.policies.paged

        def test_as_it_was(kvlab_check):
            kvlab_check("base.json")

        def test_made_worse(kvlab_check, monkeypatch):
            monkeypatch.setattr(sim.policies.paged.Paged, "lookup", lambda self, seq: 0)
            kvlab_check("base.json")
        """)
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "worse: paged (Prefix hits, " in done.stdout
    assert "Prefix hits (tokens)" in done.stdout
