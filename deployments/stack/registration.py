"""The registering program as a child of `flywheel up`: started, waited for, its findings put into lines.

What it registers is register.py's business.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.stack.processes import Part, StackError

LOOK_SECONDS = 0.3


@dataclass(frozen=True)
class Registration:
    """A running `python -m deployments.stack.register`."""

    process: subprocess.Popen[str]
    conf: Path
    log: Path

    def lines(self, ending: threading.Event, most_seconds: float) -> list[str]:
        """Wait for it and say what it did, a line each; nothing if `ending` came first.

        Raises:
            StackError: it failed, or took longer.
        """
        deadline = time.monotonic() + most_seconds
        while not ending.is_set() and time.monotonic() < deadline:
            try:
                printed, _ = self.process.communicate(timeout=LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            try:
                return self._lines(printed)
            except (ValueError, IndexError, KeyError):
                break
        if ending.is_set():
            return []
        raise StackError("deployments", "could not be registered", self.log)

    def _lines(self, printed: str) -> list[str]:
        done = json.loads(printed.strip().splitlines()[-1])
        projects = ", ".join(done["projects"]) or f"none in {self.conf}: `flywheel init` writes one"
        lines = [f"projects  {projects}", *(f"skipped   {sentence}" for sentence in done["broken"])]
        if done["removed"]:
            lines.append(f"removed   {', '.join(done['removed'])}: no project file has that name")
        return lines


@contextmanager
def registering(conf: Path, like: Part) -> Iterator[Registration]:
    """The program at work, in the environment of the worker; ended at the latest with the block."""
    log = like.log.parent / "register.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "deployments.stack.register",
        str(conf),
        like.environment["PREFECT_API_URL"],
    ]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            env=dict(like.environment),
            cwd=like.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    try:
        yield Registration(process, conf, log)
    finally:
        process.kill()
        process.communicate()
