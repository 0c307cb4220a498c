"""How a measured process tells where it is: one JSON object a line on stdout.

Only the standard library, because one of the measured processes lives in an environment of its own.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

IDLE_SECONDS = 0.3


def mark(name: str, **facts: Any) -> None:
    """Say that something is reached now, with the wall clock and this process's CPU seconds (user and system)."""
    facts = {"mark": name, "at": time.time(), "cpu_seconds": time.process_time(), **facts}
    # Not through sys.stdout, which libraries capture.
    os.write(1, (json.dumps(facts, default=str) + "\n").encode())


def mark_idle(modules: Iterable[str] = ()) -> None:
    """Import the modules that the work will import, rest, and say so: the base line of memory and CPU."""
    for name in modules:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    mark("idle")
    time.sleep(IDLE_SECONDS)  # so that the resting process is seen at least once


def imported() -> list[str]:
    """The modules in this process, in the order in which they came."""
    return [name for name in sys.modules if not name.startswith("__")]
