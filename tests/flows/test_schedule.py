"""`flywheel up` for real: a scheduled run comes into being and completes, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from deployments.stack.register import JOBS, register_all
from deployments.teacher_sim import TeacherServer
from tasks.project import load_project
from tasks.store import open_store, schema
from tests.conftest import write_tiny_project
from tests.flows.conftest import recorded_after_writing

pytestmark = pytest.mark.slow

FLYWHEEL = [sys.executable, "-m", "deployments.cli"]


@dataclass
class Up:
    """A running `flywheel up` over one tiny project whose nightly is due every ten seconds."""

    home: Path
    project: Path
    process: subprocess.Popen[bytes]
    environment: dict[str, str]

    @property
    def state(self) -> dict[str, Any]:
        """What `var/up.json` says."""
        state: dict[str, Any] = json.loads((self.home / "var" / "up.json").read_text())
        return state

    @property
    def said(self) -> str:
        """What it printed so far."""
        return (self.home / "up.err").read_text()

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """POST to its Prefect API; on SQLite a request may wait a minute for a lock, so it is asked again."""
        for patience in (30, 60, 120):
            try:
                reply = httpx.post(f"{self.state['prefect_api']}/{path}", json=body, timeout=patience)
                reply.raise_for_status()
                return reply.json()
            except httpx.TimeoutException as error:
                late = error
        raise late

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another `flywheel` command in the same home."""
        return subprocess.run(
            [*FLYWHEEL, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def eventually(self, what: str, true: Callable[[], Any], seconds: float) -> Any:
        """The first true value; fails when the stack ends or the time is over."""
        deadline = time.monotonic() + seconds
        while not (value := true()):
            assert self.process.poll() is None, f"up ended before {what}:\n{self.said}"
            assert time.monotonic() < deadline, f"no {what} within {seconds} s:\n{self.said}"
            time.sleep(1)
        return value


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("up")
    conf = home / "conf"
    with TeacherServer(recorded_after_writing(conf)) as teacher:
        file = write_tiny_project(
            conf,
            teacher={"base_url": teacher.base_url},
            schedule={"nightly": "* * * * * */10", "timezone": "UTC"},
        )
        (conf / "broken.yaml").write_text("project: broken\ntask: {taxonomi: x.yaml}\n")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {"FLYWHEEL_HOME": str(home)}
        command = [
            *FLYWHEEL,
            "up",
            "--json",
            "--conf",
            str(conf),
            "--prefect-port",
            "0",
            "--mlflow-port",
            "0",
        ]
        with (home / "up.out").open("wb") as out, (home / "up.err").open("wb") as err:
            process = subprocess.Popen(
                command, env=environment, stdout=out, stderr=err, start_new_session=True
            )
        running = Up(home, file, process, environment)
        try:
            running.eventually("ready line", lambda: "ready after" in running.said, 180)
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _nightlies(up: Up) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = up.ask(
        "flow_runs/filter", {"flows": {"name": {"any_": ["nightly"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    )
    return runs


def test_a_scheduled_nightly_comes_into_being_and_completes(up: Up) -> None:
    """Nobody starts it: the server makes the run, the worker works it off, the items are labelled."""

    def completed() -> dict[str, Any] | None:
        ended = [run for run in _nightlies(up) if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]
        return ended[0] if ended else None

    run = up.eventually("ended scheduled run", completed, 300)
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["auto_scheduled"]
    project = load_project(up.project, up.home)
    store = open_store(project.database_url, project.project)
    assert store.scalar(select(func.count()).select_from(schema.labels)) > 0
    store.close()


def test_two_nightlies_never_run_at_once(up: Up) -> None:
    """What comes due while one runs is cancelled, so an outage leaves one run, not a queue."""
    up.eventually(
        "cancelled run", lambda: [run for run in _nightlies(up) if run["state_type"] == "CANCELLED"], 120
    )
    states = [(run["state_type"], run["start_time"], run["end_time"]) for run in _nightlies(up)]
    worked = sorted((start, end) for state, start, end in states if state == "COMPLETED")
    assert all(end <= start for (_, end), (start, _) in pairwise(worked)), worked


def test_every_job_of_the_project_stands_in_the_ui(up: Up) -> None:
    """Ten deployments with the project filled in; the broken file is named and took nothing with it."""
    found = up.ask("deployments/filter", {})
    assert len(found) == 10
    assert {one["name"] for one in found} == {"tiny"}
    assert {one["parameters"]["project"] for one in found} == {str(up.project)}
    assert "skipped   " in up.said
    assert "broken.yaml" in up.said
    assert "Did you mean 'taxonomy'?" in up.said


def test_a_second_up_says_where_the_first_one_is(up: Up) -> None:
    """It ends at once, with the addresses and without an error."""
    second = up.command("up", "--json")
    assert second.returncode == 0, second.stderr
    body = json.loads(second.stdout)
    assert body["state"] == "already running"
    assert body["prefect_ui"] == up.state["prefect_ui"]
    assert "running already" in second.stderr


def test_commands_use_the_standing_server(up: Up) -> None:
    """A job started on the command line is a run on `up`'s server, not on a server of its own."""
    before = up.ask("flow_runs/count", {"flows": {"name": {"any_": ["report"]}}})
    ran = up.command("report", "--project", str(up.project), "--json")
    assert ran.returncode in (0, 1), ran.stderr  # 1: the nightly holds the project
    assert up.ask("flow_runs/count", {"flows": {"name": {"any_": ["report"]}}}) > before


def test_mlflow_serves_what_the_jobs_wrote(up: Up) -> None:
    """The retrain's run is in the served store, and its artifacts can be read through it."""
    from mlflow import MlflowClient

    client = MlflowClient(up.state["mlflow"])
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'retrain'")
    assert runs
    listed = httpx.get(
        f"{up.state['mlflow']}/api/2.0/mlflow/artifacts/list", params={"run_id": runs[0].info.run_id}
    )
    assert "retrain.json" in {file["path"] for file in listed.json()["files"]}
    got = httpx.get(
        f"{up.state['mlflow']}/get-artifact", params={"path": "retrain.json", "run_uuid": runs[0].info.run_id}
    )
    assert got.status_code == 200
    assert got.json()


def test_a_killed_worker_comes_back(up: Up) -> None:
    """kill -9 on the worker: another one is started, and a run that only looks alive is said to have crashed."""
    (report,) = up.ask("deployments/filter", {"flows": {"name": {"any_": ["report"]}}})
    zombie = up.ask(f"deployments/{report['id']}/create_flow_run", {"state": {"type": "RUNNING"}})
    pid = up.state["processes"]["worker"][0]
    os.kill(pid, signal.SIGKILL)
    up.eventually("new worker", lambda: up.state["processes"].get("worker", [pid])[0] != pid, 120)
    assert "worker ended (SIGKILL); starting it again" in up.said
    lost = {"flow_runs": {"id": {"any_": [zombie["id"]]}}}
    up.eventually("crash", lambda: up.ask("flow_runs/filter", lost)[0]["state_type"] == "CRASHED", 200)


def test_ctrl_c_ends_everything(up: Up) -> None:
    """SIGINT: exit code 0, no process of the stack or of its jobs is left, and `up.json` is gone."""
    mine = psutil.Process(up.process.pid).children(recursive=True)
    assert len(mine) >= 3
    api = up.state["prefect_api"]
    os.kill(up.process.pid, signal.SIGINT)
    assert up.process.wait(120) == 0
    _gone, alive = psutil.wait_procs(mine, timeout=5)
    assert not alive, alive
    assert not _processes_with(f"PREFECT_API_URL={api}")
    assert not (up.home / "var" / "up.json").exists()
    assert json.loads((up.home / "up.out").read_text())["state"] == "stopped"


def test_registering_again_respects_what_people_did(prefect_server: None, tmp_path: Path) -> None:
    """A nightly paused in the UI stays paused, even under a new time; without its file a project's jobs go."""
    from prefect.client.orchestration import get_client

    file = write_tiny_project(tmp_path)
    with get_client(sync_client=True) as client:
        assert register_all(tmp_path, client, tmp_path).projects == ["tiny (nightly 0 2 * * * UTC)"]
        first = client.read_deployment_by_name("nightly/tiny")
        assert first.global_concurrency_limit is not None
        assert first.global_concurrency_limit.limit == 1
        client.update_deployment_schedule(first.id, first.schedules[0].id, active=False)
        register_all(tmp_path, client, tmp_path)
        write_tiny_project(tmp_path, schedule={"nightly": "30 3 * * *", "timezone": "Europe/Berlin"})
        register_all(tmp_path, client, tmp_path)
        (now,) = client.read_deployment_by_name("nightly/tiny").schedules
        assert now.schedule.model_dump(include={"cron", "timezone"}) == {
            "cron": "30 3 * * *",
            "timezone": "Europe/Berlin",
        }
        assert not now.active
        file.unlink()
        assert sorted(register_all(tmp_path, client, tmp_path).removed) == sorted(
            f"{job}/tiny" for job in JOBS
        )


def _processes_with(setting: str) -> list[str]:
    name, value = setting.split("=", 1)
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found
