"""The environment of a command: what it sets, and what it clears away after a killed one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deployments.environment import end_orphaned_servers, prepare
from deployments.stack.parts import MLFLOW_UI
from deployments.stack.state import write_state

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


def test_a_command_links_to_where_browsers_find_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a stack whose MLflow has another name outside, a command's pages link to that one, as a worker's do."""
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("PREFECT_API_URL", MLFLOW_UI):
        os.environ.pop(name, None)
    (tmp_path / "var").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        api = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        written = {
            "prefect_api": api,
            "mlflow": "http://127.0.0.1:5000",
            "mlflow_ui": "http://models.example:5000",
        }
        write_state(written, [])
        prepare()
    assert os.environ["PREFECT_API_URL"] == api
    assert os.environ[MLFLOW_UI] == "http://models.example:5000"
