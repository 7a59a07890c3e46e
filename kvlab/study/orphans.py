"""Worker processes that end when the process that started them is killed."""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from multiprocessing import current_process

SECONDS = 0.5
"""Between two looks at who the parent is."""


@cache
def end_with(parent: int) -> None:
    """Let this process end when ``parent`` does, if it is a worker of joblib's on this machine.

    A killed parent cannot tell its workers; they would wait for work for minutes.
    """
    if current_process().name.startswith("LokyProcess"):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS)
    os._exit(1)
