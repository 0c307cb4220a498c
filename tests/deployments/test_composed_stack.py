"""The commands of the compose file, run as processes here on a real PostgreSQL: a wheel turns in them.

No container runs: hosts are loopback, ports free ones, volumes folders, each service with one of its own.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, func, make_url, select, text

from deployments.stack.worker import LEFT
from deployments.teacher_sim import TeacherServer
from tasks.store import open_store, schema
from tests.conftest import write_tiny_project
from tests.deployments.composed import CONTAINERS, Service, end, running, services
from tests.flows.conftest import recorded_after_writing
from tests.postgres import binaries

pytestmark = pytest.mark.stack

KEY = "key-of-the-teacher"


@dataclass
class Composed:
    """The three services that are ours, healthy, over one tiny project with a teacher that asks for a key."""

    worker: Service
    mlflow: Service
    api: str
    tracking_uri: str
    database_url: str
    project_file: Path

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """POST to the Prefect API."""
        reply = httpx.post(f"{self.api}/{path}", json=body, timeout=60)
        reply.raise_for_status()
        return reply.json()

    def run_of(self, deployment: str) -> dict[str, Any]:
        """A run of it, made as the UI makes one."""
        found = httpx.get(f"{self.api}/deployments/name/{deployment}", timeout=60).json()
        run: dict[str, Any] = self.ask(f"deployments/{found['id']}/create_flow_run", {})
        return run

    def state_of(self, run: dict[str, Any]) -> dict[str, Any]:
        """Where the run stands now."""
        state: dict[str, Any] = httpx.get(f"{self.api}/flow_runs/{run['id']}", timeout=60).json()["state"]
        return state


def free_ports(count: int) -> list[str]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory, postgresql_url: str) -> Iterator[Composed]:
    server = make_url(postgresql_url)
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE flywheel"))  # POSTGRES_DB
        for statement in re.findall(
            r"^CREATE .*?;", (CONTAINERS / "databases.sql").read_text(), re.MULTILINE
        ):
            connection.execute(text(statement))
    engine.dispose()
    assert server.username == "flywheel"
    prefect, mlflow, health = free_ports(3)
    places = {
        "postgres:5432": f"127.0.0.1:{server.port}",
        "prefect:4200": f"127.0.0.1:{prefect}",
        "mlflow:5000": f"127.0.0.1:{mlflow}",
        "0.0.0.0": "127.0.0.1",
        "4200": prefect,
        "5000": mlflow,
        "8080": health,
    }
    here = services({"POSTGRES_PASSWORD": str(server.password)})
    folder = tmp_path_factory.mktemp("composed")
    parts = {}
    for name in ("postgres", "prefect", "mlflow", "worker"):
        (folder / name / "var").mkdir(parents=True)
        parts[name] = Service(name, here[name], folder / name, places, {"OPENROUTER_API_KEY": KEY})
    parts["worker"].environment["PREFECT_WORKER_WEBSERVER_PORT"] = health
    assert pg_is_ready(here["postgres"]["healthcheck"]["test"], server.port)
    conf = folder / "worker" / "conf"
    with TeacherServer(recorded_after_writing(conf), api_key=KEY) as teacher:
        file = write_tiny_project(
            conf,
            teacher={"base_url": teacher.base_url, "api_key_env": "OPENROUTER_API_KEY"},
            schedule={"nightly": "0 2 * * *", "timezone": "UTC"},
        )
        with running(parts["prefect"]), running(parts["mlflow"]), running(parts["worker"]) as worker:
            given = worker.environment
            yield Composed(
                worker, parts["mlflow"], given["PREFECT_API_URL"], given["FLYWHEEL_TRACKING_URI"],
                given["FLYWHEEL_DATABASE_URL"], file,
            )  # fmt: skip


def pg_is_ready(test: list[str], port: int | None) -> bool:
    """PostgreSQL's health check as it is written, against this machine's server."""
    how, program, *arguments = test
    folder = binaries()
    assert folder is not None
    command = [str(folder / program), *arguments]
    done = subprocess.run(command, env=os.environ | {"PGPORT": str(port)}, capture_output=True, check=False)
    return how == "CMD" and done.returncode == 0


def ended(composed: Composed, run: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while (state := composed.state_of(run))["type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
        assert time.monotonic() < deadline, composed.worker.log.read_text()[-3000:]
        time.sleep(1)
    return state


def test_a_nightly_turns_the_wheel_between_the_containers(composed: Composed) -> None:
    """Labels bought with the key that was passed through lie in PostgreSQL, the champion's files with MLflow."""
    run = composed.run_of("nightly/tiny")
    state = ended(composed, run)
    assert state["type"] == "COMPLETED", composed.worker.log.read_text()[-3000:]
    store = open_store(composed.database_url, "tiny")
    assert store.scalar(select(func.count()).select_from(schema.labels)) > 0
    store.close()
    from tasks.promotion.registry import Registry

    registry = Registry(composed.tracking_uri, "tiny", "tiny", composed.worker.home / "var" / "mlartifacts")
    version = registry.alias("champion")
    assert version == "1"
    assert registry.load(version).kind == "linear"
    kept = {path.name for path in (composed.mlflow.home / "var" / "mlartifacts").rglob("*") if path.is_file()}
    assert {"student.json", "head.safetensors"} <= kept
    databases = [path.name for path in composed.worker.home.rglob("*.db")]
    assert databases == [], "all of it is in PostgreSQL"


def test_a_worker_that_starts_again_marks_what_the_last_one_left(composed: Composed) -> None:
    """A run that says Running and has no process is said to have crashed, and the next one is worked off."""
    left = composed.run_of("report/tiny")
    end(composed.worker)
    forced = {"state": {"type": "RUNNING"}, "force": True}
    composed.ask(f"flow_runs/{left['id']}/set_state", forced)
    composed.worker.start()
    composed.worker.wait()
    state = composed.state_of(left)
    assert (state["type"], state["message"]) == ("CRASHED", LEFT)
    assert ended(composed, composed.run_of("report/tiny"))["type"] == "COMPLETED"
    printed = composed.worker.log.read_text()
    assert printed.count('"projects": ["tiny (nightly 0 2 * * * UTC)"]') == 2
