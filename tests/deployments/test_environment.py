"""The environment of a command: what it sets, and what it clears away after a killed one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deployments.environment import end_orphaned_servers

SLEEP = "import time; time.sleep(60)"


def _orphan(home: Path) -> psutil.Process:
    """A process that looks like a temporary server of `home`, its parent gone."""
    starter = (
        "import subprocess, sys; "
        f"print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}, 'prefect.server.api.server:create_app'], "
        "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", starter],
        env=os.environ | {"PREFECT_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return psutil.Process(int(done.stdout))


def test_a_killed_commands_server_is_ended_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orphaned temporary server of this home is ended; one of another home stays."""
    mine, other = _orphan(tmp_path / "mine"), _orphan(tmp_path / "other")
    try:
        if mine.ppid() != 1:
            pytest.skip("orphans have another parent than process 1 here")
        monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "mine"))
        assert end_orphaned_servers() == 1
        mine.wait(10)
        assert other.is_running()
    finally:
        for process in (mine, other):
            if process.is_running():
                process.kill()
