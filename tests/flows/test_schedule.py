"""`flywheel up` for real: a scheduled run comes into being and completes, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from deployments.stack.automations import automations_held
from deployments.stack.processes import answers_ok
from deployments.stack.register import JOBS, register_all
from deployments.teacher_sim import TeacherServer
from tasks.project import load_project
from tasks.store import open_store, schema
from tests.conftest import write_tiny_project
from tests.flows.conftest import recorded_after_writing

pytestmark = pytest.mark.slow

FLYWHEEL = [sys.executable, "-m", "deployments.cli"]
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


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
        # Nothing about telemetry either: that it is off is the stack's own doing.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PREFECT_") and name not in TELEMETRY_OFF
        } | {"FLYWHEEL_HOME": str(home)}
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
    """Eleven deployments with the project filled in; the broken file is named and took nothing with it."""
    found = up.ask("deployments/filter", {})
    assert len(found) == len(JOBS) == 11
    assert {one["name"] for one in found} == {"tiny"}
    assert {one["parameters"]["project"] for one in found} == {str(up.project)}
    assert "skipped   " in up.said
    assert "broken.yaml" in up.said
    assert "Did you mean 'taxonomy'?" in up.said


def test_nobody_is_told_that_it_runs(up: Up) -> None:
    """Telemetry is off in each process of the stack, and an MLflow that is away is not tried for four minutes."""
    asked = TELEMETRY_OFF | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
    for name, (pid, _) in up.state["processes"].items():
        for process in (psutil.Process(pid), *psutil.Process(pid).children()):
            with suppress(psutil.NoSuchProcess):  # a job's, which may end meanwhile
                given = process.environ()
                assert {variable: given.get(variable, "").lower() for variable in asked} == asked, name
    settings = httpx.get(f"{up.state['prefect_api']}/admin/settings").json()
    assert settings["server"]["analytics_enabled"] is False


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


def test_a_killed_prefect_server_comes_back(up: Up) -> None:
    """kill -9 on the server: another one is started on the same database, and a run of its schedule completes."""
    pid = up.state["processes"]["prefect-server"][0]
    os.kill(pid, signal.SIGKILL)
    up.eventually("new server", lambda: up.state["processes"].get("prefect-server", [pid])[0] != pid, 120)
    assert "prefect-server ended (SIGKILL); starting it again" in up.said
    up.eventually("answer", lambda: answers_ok(f"{up.state['prefect_api']}/health"), 120)
    back = datetime.now(UTC).isoformat()
    up.eventually(
        "nightly after that",
        lambda: [
            run for run in _nightlies(up) if run["state_type"] == "COMPLETED" and run["start_time"] > back
        ],
        300,
    )


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


def test_a_project_with_another_name_leaves_nothing_under_the_old_one(
    prefect_server: None, tmp_path: Path
) -> None:
    """One nightly a file: renamed in its file, its old deployments and automations go; a moved file keeps its own."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        write_tiny_project(tmp_path, project="old")
        register_all(tmp_path, client, tmp_path)
        file = write_tiny_project(tmp_path, project="new")
        done = register_all(tmp_path, client, tmp_path)
        assert sorted(done.removed) == sorted(f"{job}/old" for job in JOBS)
        assert {name.partition(":")[0] for name in automations_held(client)} == {"new"}
        kept = client.read_deployment_by_name("nightly/new").id
        moved = file.rename(file.with_name("moved.yaml"))
        assert register_all(tmp_path, client, tmp_path).removed == []
        now = client.read_deployment_by_name("nightly/new")
        assert (now.id, now.parameters["project"]) == (kept, str(moved))
        moved.unlink()
        register_all(tmp_path, client, tmp_path)


def test_a_folder_that_is_away_takes_nothing_with_it(prefect_server: None, tmp_path: Path) -> None:
    """While it is replaced, or not mounted yet, deployments stay as they are; so a paused nightly comes back paused."""
    from prefect.client.orchestration import get_client

    conf, aside = tmp_path / "conf", tmp_path / "aside"
    file = write_tiny_project(conf)
    with get_client(sync_client=True) as client:
        register_all(conf, client, tmp_path)
        nightly = client.read_deployment_by_name("nightly/tiny")
        client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=False)
        conf.rename(aside)
        away = register_all(conf, client, tmp_path)
        assert (away.removed, away.projects) == ([], [])
        assert "the folder is away" in away.broken[0]
        aside.rename(conf)
        register_all(conf, client, tmp_path)
        assert not client.read_deployment_by_name("nightly/tiny").schedules[0].active
        file.unlink()
        assert register_all(conf, client, tmp_path).removed


def test_the_nightly_form_has_bounds(prefect_server: None, tmp_path: Path) -> None:
    """Each field explains itself and may stay empty; what is out of bounds is refused before there is a run."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    file = write_tiny_project(tmp_path)
    with get_client(sync_client=True) as client:
        register_all(tmp_path, client, tmp_path)
        deployment = client.read_deployment_by_name("nightly/tiny")
        form = deployment.parameter_openapi_schema
        assert form is not None
        assert set(form["properties"]) == {"project", "limit", "budget_usd", "approval"}
        assert form["required"] == ["project"]
        assert deployment.parameters == {"project": str(file)}, "what a schedule's runs are given"
        assert form["properties"]["approval"]["enum"] == ["automatic", "human"]
        for wrong in ({"limit": 0}, {"limit": "all"}, {"budget_usd": 0}, {"approval": "perhaps"}):
            with pytest.raises(PrefectHTTPStatusError, match="409"):
                client.create_flow_run_from_deployment(deployment.id, parameters=wrong)
        asked = {"limit": 30, "budget_usd": 0.5, "approval": "human"}
        run = client.create_flow_run_from_deployment(deployment.id, parameters=asked)
        assert run.parameters == {"project": str(file)} | asked
        client.delete_flow_run(run.id)


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
