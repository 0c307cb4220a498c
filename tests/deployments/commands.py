"""Runs `flywheel` as a process of its own, as a person or another program does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import ROOT


class Said(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def body(self) -> dict[str, Any]:
        """The one line of JSON on stdout, which must be all there is."""
        assert self.out.endswith("\n"), self
        assert self.out.count("\n") == 1, self
        found: dict[str, Any] = json.loads(self.out, parse_constant=_no_constant)
        return found


def flywheel(*arguments: str | Path, cwd: Path, home: Path | None = None) -> Said:
    """Run a command from a working directory; `home` is its FLYWHEEL_HOME, by default the test's own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    if home is not None:
        environment["FLYWHEEL_HOME"] = str(home)
    command = [sys.executable, "-m", "deployments.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    return Said(done.returncode, done.stdout, done.stderr)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")
