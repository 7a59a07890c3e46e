from __future__ import annotations

import os

import pytest

from reports.directory import ensure_replaceable, replacing
from workloads.errors import InputError


def nothing_is_ours(path):
    return False


def everything_is_ours(path):
    return True


def fill(target, text, is_ours=everything_is_ours):
    with replacing(target, is_ours) as root:
        (root / "file").write_text(text)


def test_new_parents_are_made_and_nothing_else_is_left(tmp_path):
    fill(tmp_path / "a" / "b", "x")
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"
    assert os.listdir(tmp_path / "a") == ["b"]


def test_own_directory_is_replaced_as_a_whole(tmp_path):
    fill(tmp_path / "out", "old")
    (tmp_path / "out" / "more").write_text("old")
    fill(tmp_path / "out", "new")
    assert os.listdir(tmp_path / "out") == ["file"]
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_empty_directory_is_taken_and_foreign_one_refused(tmp_path):
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "x", nothing_is_ours)
    with pytest.raises(InputError, match="did not write"):
        fill(tmp_path / "out", "y", nothing_is_ours)
    assert (tmp_path / "out" / "file").read_text() == "x"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interruption_leaves_what_was_there(tmp_path, error):
    fill(tmp_path / "out", "old")
    for target in ("out", "fresh"):
        with pytest.raises(error), replacing(tmp_path / target, everything_is_ours) as root:
            (root / "file").write_text("half")
            raise error
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_failed_exchange_puts_the_old_one_back(tmp_path, monkeypatch):
    fill(tmp_path / "out", "old")
    with (
        pytest.raises(InputError, match="cannot be written"),
        replacing(tmp_path / "out", everything_is_ours) as root,
    ):
        root.rmdir()  # so that the second rename finds nothing to move
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_place_below_a_file_is_refused_before_work(tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match=r"not a (writable )?directory"):
            ensure_replaceable(target, everything_is_ours)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_parent_is_refused_before_work(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="not a writable directory"):
        ensure_replaceable(tmp_path / "locked" / "out", everything_is_ours)


def test_disk_errors_are_one_line(tmp_path):
    with (
        pytest.raises(InputError, match="No space left") as caught,
        replacing(tmp_path / "out", everything_is_ours),
    ):
        raise OSError(28, "No space left on device")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []
