"""What was measured so far, line by line, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from backends.calibrate.point import Sample
from workloads.errors import InputError


def write_whole(path: Path, text: str) -> None:
    """Let ``path`` hold ``text``: all of it or what was there. `InputError` where it cannot be."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


class Journal:
    """JSON lines beside the calibration file: a header, then one line a point.

    samples: by key of the point. A last line that was cut short is measured again.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Begin a journal, or go on with the one at ``path``.

        Raises `InputError` where it belongs to another device, model or effort.
        """
        self.path = path
        self.samples: dict[str, Sample] = {}
        lines = self._complete_lines()
        if lines and json.loads(lines[0]) != json.loads(json.dumps(header)):
            raise InputError(
                f"{path}: line 1: left by a calibration of something else; expected this device,"
                " model and effort; delete the file to begin anew"
            )
        for line in lines[1:]:
            sample = Sample.from_json(json.loads(line))
            self.samples[sample.point.key] = sample
        # Without what was cut short; all that was measured stays there until the new one is.
        write_whole(path, "".join(line + "\n" for line in lines or [json.dumps(header)]))

    def _complete_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        return text[: text.rfind("\n") + 1].splitlines()

    def add(self, sample: Sample) -> None:
        """Keep a point; it is on the disk when this returns."""
        self.samples[sample.point.key] = sample
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(sample.to_json()) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """The calibration is complete; the journal is no longer needed."""
        self.path.unlink()
