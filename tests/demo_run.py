"""The demo, run once a session as a person would run it; the tests that look at what it left share it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.project import Project, load_project


@dataclass(frozen=True)
class Demo:
    """What `flywheel demo` printed (for people, and its numbers) and where it wrote."""

    home: Path
    printed: str
    numbers: dict[str, Any]

    @property
    def project_file(self) -> Path:
        """The project file it ran."""
        return Path(self.numbers["project_file"])

    @property
    def project(self) -> Project:
        """Its settings."""
        return load_project(self.project_file, self.home)


def flywheel(
    home: Path, *arguments: str, cwd: Path | None = None, timeout_seconds: float = 900
) -> subprocess.CompletedProcess[str]:
    """Run the console script with `home` as FLYWHEEL_HOME."""
    environment = os.environ | {"FLYWHEEL_HOME": str(home)}
    environment.pop("PREFECT_HOME", None)
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", *arguments],
        cwd=cwd or home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """`make demo` without the installation: 6,000 items, two turns."""
    home = tmp_path_factory.mktemp("demo")
    done = flywheel(home, "demo")
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads((home / "var" / "catalogue" / "demo.json").read_text(encoding="utf-8"))
    return Demo(home, done.stdout, numbers)
