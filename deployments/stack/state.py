"""One stack a home: the lock that says so, and `var/up.json`, where others read what runs.

The lock goes with its process, however it ends; the file may outlive it and then names what was left running.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deployments.environment import stack_file
from deployments.stack.processes import Supervised, end_group


@contextmanager
def only_one(home: Path) -> Iterator[bool]:
    """True while this process is the home's stack; False if another one is."""
    file = home / "var" / "up.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def read_state() -> dict[str, Any]:
    """What the file says; empty if there is none."""
    try:
        state = json.loads(stack_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(body: Mapping[str, Any], parts: Sequence[Supervised]) -> None:
    """Afterwards the file holds the addresses and, a part, its process id and when it began."""
    processes = {}
    for part in parts:
        if part.process is not None and (began := _began(part.process.pid)) is not None:
            processes[part.part.name] = [part.process.pid, began]
    file = stack_file()
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps({**body, "pid": os.getpid(), "processes": processes}), encoding="utf-8")
    beside.rename(file)


def forget_state() -> None:
    """Afterwards the file is gone."""
    stack_file().unlink(missing_ok=True)


def end_leftovers() -> list[str]:
    """End what a stack that was killed left running; returns the parts' names. Only for who holds the lock."""
    ended = []
    for name, (pid, began) in read_state().get("processes", {}).items():
        if _began(pid) == began:
            end_group(pid, signal.SIGKILL)
            ended.append(str(name))
    forget_state()
    return ended


def _began(pid: int) -> float | None:
    import psutil

    with suppress(psutil.Error):
        return round(float(psutil.Process(pid).create_time()), 2)
    return None
