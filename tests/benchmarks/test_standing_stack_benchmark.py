"""The benchmark of the standing stack runs in little: a night without its orchestrator does what a night does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deployments.teacher_sim import TeacherServer
from tasks.project import load_project
from tasks.promotion.tracking import registry_of
from tests.benchmarks.standing_stack import held
from tests.conftest import write_tiny_project
from tests.flows.conftest import recorded


@pytest.mark.slow
def test_a_night_of_plain_functions(tmp_path: Path) -> None:
    """It labels, trains and promotes without a server to ask, and says that it changed something."""
    conf = tmp_path / "conf"
    write_tiny_project(conf)
    with TeacherServer(recorded(conf)) as teacher:
        file = write_tiny_project(conf, teacher={"base_url": teacher.base_url})
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.standing_stack", "--one", str(file), "--plainly"],
            env=os.environ | {"FLYWHEEL_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    night = json.loads(done.stdout.splitlines()[-1])
    assert night["changed"] is True
    assert night["seconds"] > 0
    assert registry_of(load_project(file, tmp_path)).alias("champion") == "1"


def test_memory_is_told_by_part() -> None:
    """Each child with all that it started; shared pages make the proportional sum the smaller one."""
    command = [sys.executable, "-c", "import time; time.sleep(600)  # prefect worker"]
    with subprocess.Popen(command) as child:
        try:
            found = held(psutil.Process(os.getpid()))
        finally:
            child.kill()
    resident, proportional, cpu = found["worker"]
    assert 0 < proportional <= resident
    assert cpu >= 0
    assert "up" in found
