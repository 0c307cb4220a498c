"""What events start: the automations of a project, and drift in its traffic that starts a run on a real stack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import psutil
import pytest

from deployments.stack.automations import STARTS, automations_held
from deployments.stack.parts import claim, environment_of, prefect_server, worker
from deployments.stack.processes import Supervised, stop
from deployments.stack.register import register_all
from deployments.teacher_sim import TeacherServer
from flows.events import NIGHTLY_FAILED
from tasks.project import Project
from tasks.promotion.registry import CHAMPION
from tasks.promotion.tracking import registry_of
from tasks.store import open_store
from tasks.store.labels import append_labels
from tasks.store.policies import append_policy
from tasks.store.runs import working
from tests.conftest import write_tiny_project
from tests.flows.conftest import recorded_after_writing
from tests.flows.test_approval import eventually
from tests.monitoring.drifting import certified_on, drawn, log_traffic
from tests.monitoring.filled import KETTLES, key
from tests.promotion.shop import a_shop, a_version

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

pytestmark = pytest.mark.slow


def test_registering_again_changes_only_what_is_wrong(prefect_server: None, tmp_path: Path) -> None:
    """Three automations that start two deployments; off stays off, bent is straightened, gone with the project."""
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    file = write_tiny_project(tmp_path, project="automated")
    with get_client(sync_client=True) as client:
        register_all(tmp_path, client, tmp_path)
        first = _automations(client)
        assert set(first) == {f"automated: {what}" for what in STARTS}
        for name, one in first.items():
            event, job = STARTS[name.removeprefix("automated: ")]
            assert one.trigger.expect == {event}
            assert one.actions[0].deployment_id == client.read_deployment_by_name(f"{job}/automated").id
        client.pause_automation(first["automated: drift recalibrates"].id)
        bent = first["automated: drift starts the nightly run"]
        client.update_automation(
            bent.id,
            AutomationCore(
                **bent.model_dump(exclude={"id", "owner_resource"}) | {"description": "something else"}
            ),
        )
        register_all(tmp_path, client, tmp_path)
        again = _automations(client)
        assert {name: one.id for name, one in again.items()} == {name: one.id for name, one in first.items()}
        assert [one.enabled for one in again.values()].count(False) == 1
        assert not again["automated: drift recalibrates"].enabled
        assert again[bent.name].description == bent.description
        file.unlink()
        register_all(tmp_path, client, tmp_path)
        assert _automations(client) == {}


def _automations(client: SyncPrefectClient) -> dict[str, Any]:
    held = automations_held(client)
    return {name: one for name, one in sorted(held.items()) if name.startswith("automated: ")}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Project]]:
    """A Prefect server with a worker over one shop whose champion was calibrated on other traffic than it gets.

    It has a teacher, so that a nightly run can end well.
    """
    home = tmp_path_factory.mktemp("drifts")
    addresses = claim("127.0.0.1", 0, 0)
    environment = {
        name: value
        for name, value in environment_of(addresses, home).items()
        if not name.startswith("PREFECT_") or name == "PREFECT_API_URL"
    } | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    server, hands = (
        Supervised(prefect_server(addresses, environment, home)),
        Supervised(worker(environment, home)),
    )
    with TeacherServer(recorded_after_writing(home / "answers")) as teacher:
        server.start()
        try:
            project = a_shop(
                home / "conf",
                "shop",
                home,
                schedule={"nightly": None, "monitor": None},
                monitor={"new_labels": 50},
                teacher={"base_url": teacher.base_url},
            )
            registry_of(project).set_alias(CHAMPION, a_version(project))
            random, store = np.random.default_rng(0), open_store(project.database_url, project.project)
            policy = append_policy(store, certified_on(drawn(random, 400), model_version="1"), 1)
            log_traffic(store, drawn(random, 900, sure=2.0), policy, 0)
            store.close()
            eventually("server", server.answers, lambda: server.part.log.read_text()[-3000:])
            from prefect.client.orchestration import SyncPrefectClient

            with SyncPrefectClient(addresses.prefect_api) as client:
                assert register_all(home / "conf", client, home).projects == ["shop (no schedule)"]
            hands.start()
            yield addresses.prefect_api, project
        finally:
            stop([hands], 10)
            stop([server], 10)


class Asked:
    """The stack as its API shows it."""

    def __init__(self, api: str) -> None:
        self.api = api

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The server's answer; where its SQLite is locked (503) it is asked again."""
        verb = "GET" if body is None else "POST"
        replies = (httpx.request(verb, f"{self.api}/{path}", json=body, timeout=60) for _ in range(20))
        return next(reply for reply in replies if reply.status_code != 503).raise_for_status().json()

    def runs(self, job: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", {"flows": {"name": {"any_": [job]}}})
        return found

    def start(self, job: str) -> str:
        run = self.ask(f"deployments/{self.ask(f'deployments/name/{job}/shop')['id']}/create_flow_run", {})
        return str(run["id"])

    def ended(self, job: str, least: int) -> list[dict[str, Any]]:
        def over() -> list[dict[str, Any]] | None:
            found = [run for run in self.runs(job) if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]
            return found if len(found) >= least else None

        runs: list[dict[str, Any]] = eventually(f"{least} {job}", over, lambda: str(self.runs(job)))
        return runs

    def look(self, times: int) -> None:
        """Look for drift, which is the so many-th time."""
        self.start("monitor")
        looks = self.ended("monitor", times)
        assert {run["state_type"] for run in looks} == {"COMPLETED"}, looks

    def told(self, event: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("events/filter", {"filter": {"event": {"name": [event]}}})[
            "events"
        ]
        return found


@pytest.mark.stack
def test_drift_in_traffic_starts_a_recalibration_once(standing: tuple[str, Project]) -> None:
    """One look tells, an automation's run completes; a second look sees the same drift and starts nothing more."""
    stack, project = Asked(standing[0]), standing[1]
    stack.look(1)
    (recalibrated,) = stack.ended("recalibrate", 1)
    assert recalibrated["state_type"] == "COMPLETED", recalibrated["state"]
    assert recalibrated["created_by"]["type"] == "AUTOMATION"
    assert recalibrated["created_by"]["display_value"] == "shop: drift recalibrates"
    assert recalibrated["parameters"] == {"project": str(project.file)}
    stack.look(2)
    assert (len(stack.runs("recalibrate")), stack.runs("nightly")) == (1, [])


@pytest.mark.stack
def test_many_new_labels_start_a_nightly_run(standing: tuple[str, Project]) -> None:
    """Fifty of them: the look tells, and the automation's run goes through the whole wheel to its end."""
    stack, project = Asked(standing[0]), standing[1]
    looks = len(stack.runs("monitor"))
    store = open_store(project.database_url, project.project)
    append_labels(store, [(key(f"new {n}"), KETTLES, "single") for n in range(50)], 1)
    store.close()
    stack.look(looks + 1)
    (nightly,) = stack.ended("nightly", 1)
    assert nightly["state_type"] == "COMPLETED", nightly["state"]
    assert nightly["created_by"]["display_value"] == "shop: many new labels start the nightly run"
    assert registry_of(project).next_version() == "3", "it trained one"
    assert stack.told(NIGHTLY_FAILED) == []


@pytest.mark.stack
def test_a_killed_nightly_run_is_told_at_the_server(standing: tuple[str, Project]) -> None:
    """Killed with -9 while it waits for its turn: the server holds the event, with project and reason."""
    stack, project = Asked(standing[0]), standing[1]
    store = open_store(project.database_url, project.project)
    with working(store, project.project, "a test"):
        killed = stack.start("nightly")
        eventually("start", lambda: stack.ask(f"flow_runs/{killed}")["state_type"] == "RUNNING")
        _process_of(killed).kill()
        (event,) = eventually("event", lambda: stack.told(NIGHTLY_FAILED))
    store.close()
    assert event["resource"]["prefect.resource.id"] == "flywheel.project.shop"
    assert event["payload"]["run"] == killed
    assert "-9" in event["payload"]["message"], event["payload"]


def _process_of(run: str) -> psutil.Process:
    """The process that works on a run of this user."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                return process
    raise AssertionError(f"no process works on {run}")
