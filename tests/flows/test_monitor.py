"""The monitor as a flow under a real Prefect engine, and what a failed nightly run leaves and tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import polars as pl
import pytest
from prefect.events.clients import AssertingEventsClient
from prefect.events.schemas.events import Event
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.events import somebody_listens
from tasks.monitoring.drift_look import look, note_alarms
from tasks.project import Project
from tasks.promotion.registry import CHAMPION
from tasks.promotion.tracking import registry_of
from tasks.store import open_store
from tasks.store.labels import append_labels
from tasks.store.policies import append_policy
from tests.monitoring.drifting import certified_on, drawn, log_traffic
from tests.monitoring.filled import KETTLES, add_run, key
from tests.promotion.shop import a_shop, a_version

pytestmark = pytest.mark.slow

Told = Callable[[], list[Event]]


@pytest.fixture
def told(prefect_server: None) -> Iterator[Told]:
    """The flywheel's events since it was last called, taken where they leave the process."""
    AssertingEventsClient.reset()
    EventsWorker.set_client_override(AssertingEventsClient)

    # Of its own only: the worker of a server that another test has ended by now would never be done.
    def events() -> list[Event]:
        EventsWorker.instance().wait_until_empty()
        seen = [event for client in AssertingEventsClient.all for event in client.pop_events()]
        return [event for event in seen if event.event.startswith("flywheel.")]

    yield events
    EventsWorker.instance().drain()
    EventsWorker.set_client_override(None)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One registry for all shops: to make one takes longer than any test."""
    return tmp_path_factory.mktemp("monitored")


@pytest.fixture
def served(home: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A shop of the test's own, with a champion."""
    monkeypatch.setenv("FLYWHEEL_HOME", str(home))
    name = f"shop-{len(list(home.glob('conf-*')))}"
    project = a_shop(home / f"conf-{request.node.name}", name, home, monitor={"new_labels": 50})
    registry_of(project).set_alias(CHAMPION, a_version(project))
    return project


def drift(project: Project, **changed: object) -> None:
    """A policy calibrated on one kind of answers, and traffic of another kind, or of the same."""
    random = np.random.default_rng(0)
    store = open_store(project.database_url, project.project)
    policy = append_policy(store, certified_on(drawn(random, 400), model_version="1"), 1)
    for day in range(3):
        log_traffic(store, drawn(random, 300, **changed), policy, day)  # type: ignore[arg-type]
    store.close()


def test_drift_is_told_once_with_its_numbers(served: Project, told: Told) -> None:
    """One event about the project that says which job helps; the next look sees the same and tells nobody."""
    from flows.monitor import monitor

    drift(served, sure=2.0)
    looked = monitor(str(served.file))
    (event,) = told()
    assert event.event == "flywheel.drift"
    assert (event.resource.id, event.resource["flywheel.advised"]) == (
        f"flywheel.project.{served.project}",
        "recalibrate",
    )
    assert event.payload["raised"] == {"coverage": "recalibrate", "score": "recalibrate"}
    assert event.payload["signals"]["coverage"]["value"] < event.payload["signals"]["coverage"]["limit"]
    again = monitor(str(served.file))
    assert again.alarms == looked.alarms == ["coverage", "score"]
    assert (dict(again.raised), told()) == ({}, [])


def test_many_new_labels_are_told_once(served: Project, told: Told) -> None:
    """From the setting on, counted since the newest version was trained, examples and withdrawals apart."""
    from flows.monitor import monitor

    store = open_store(served.database_url, served.project)
    append_labels(store, [(key(f"written {n}"), KETTLES, "synthetic") for n in range(60)], 1)
    append_labels(store, [(key(f"new {n}"), KETTLES, "single") for n in range(49)], 1)
    monitor(str(served.file))
    assert told() == []
    append_labels(store, [(key("one more"), KETTLES, "human")], 1)
    store.close()
    for _ in range(2):
        monitor(str(served.file))
    (event,) = told()
    assert (event.event, event.resource["flywheel.advised"]) == ("flywheel.new-labels", "nightly")
    assert event.payload["signals"]["new_labels"]["value"] == 50


def test_the_command_prints_values_limits_and_what_is_advised(served: Project, told: Told) -> None:
    """Drift is a result: exit code 0; without a policy that says what it was calibrated on, that is said."""
    from click.testing import CliRunner

    from deployments.commands.monitor import monitor_command

    def run() -> str:
        done = CliRunner().invoke(monitor_command, ["--project", str(served.file)])
        assert done.exit_code == 0, done.output
        return done.stdout

    before = run()
    assert "version 1, policy 1" in before
    assert "unknown  coverage" in before
    assert "`flywheel recalibrate` issues one that does" in before
    assert "quiet    new labels     value 0  limit 50  of 0" in before
    drift(served, sure=2.0)
    after = run()
    assert "DRIFT    coverage       value 0.3" in after
    assert "new: coverage -> recalibrate, score -> recalibrate" in after
    assert len(told()) == 1


def test_traffic_as_calibrated_is_told_to_nobody(served: Project, told: Told) -> None:
    """All signals are known and quiet, and the page's record says so."""
    from flows.monitor import monitor

    drift(served)
    looked = monitor(str(served.file))
    assert looked.alarms == []
    assert looked.signals["score"]["value"] is not None
    assert told() == []


def test_without_a_standing_server_nothing_is_noted_as_told(served: Project) -> None:
    """A look alone writes nothing, so that the next one under a server that stands still tells."""
    with temporary_settings({PREFECT_API_URL: None}):
        assert not somebody_listens()
    drift(served, sure=2.0)
    store = open_store(served.database_url, served.project)
    first, second = (look(served, store, now) for now in (1e9, 1e9 + 1))
    assert dict(first.raised) == dict(second.raised) != {}
    store.close()


def test_a_remedy_counts_when_its_run_has_ended_well(served: Project) -> None:
    """By the project's own runs: none, a failed one, then one that is done; the next remedy only after the last."""
    drift(served, sure=2.0)
    store, told_at = open_store(served.database_url, served.project), 2e9
    note_alarms(served, store, look(served, store, told_at))

    def raised(hours: float) -> dict[str, str]:
        return dict(look(served, store, told_at + hours * 3600).raised)

    again = {"coverage": "recalibrate", "score": "recalibrate"}
    assert raised(23) == {}
    assert raised(25) == again
    add_run(store, "recalibrate", told_at + 60, status="failed")
    add_run(store, "recalibrate", told_at - 60)
    assert raised(25) == again
    add_run(store, "recalibrate", told_at + 120)
    assert raised(25) == {"coverage": "nightly", "score": "nightly"}
    store.close()


def test_a_crashed_nightly_is_told_by_whoever_finds_it_dead(served: Project, told: Told) -> None:
    """The hook as the worker calls it: the run's process is gone, the state has words and no result."""
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Crashed

    from flows.nightly import nightly

    (hook,) = nightly.on_crashed_hooks
    run = FlowRun(flow_id=uuid4(), parameters={"project": str(served.file)})
    hook(nightly, run, Crashed(message="Flow run process exited with non-zero status code -9."))
    (event,) = told()
    assert (event.event, event.resource.name) == ("flywheel.nightly-failed", served.project)
    assert (event.payload["error"], event.payload["run"]) == ("CrashedRun", str(run.id))
    assert "status code -9" in event.payload["message"]


def test_a_failed_nightly_is_told_and_the_champion_goes_on_answering(served: Project, told: Told) -> None:
    """Its items are gone: the run fails, the event has class and words, and the student answers as before."""
    from flows.nightly import nightly
    from flows.route import route

    (served.file.parent / "items.parquet").unlink()
    with pytest.raises(Exception, match=r"items\.parquet"):
        nightly(str(served.file))
    (event,) = told()
    assert (event.event, event.resource.id) == (
        "flywheel.nightly-failed",
        f"flywheel.project.{served.project}",
    )
    assert event.payload["error"] in ("ConfigError", "InputError")
    assert "items.parquet" in event.payload["message"]
    assert registry_of(served).alias(CHAMPION) == "1"
    asked = served.file.parent / "asked.parquet"
    pl.read_parquet(served.file.parent / "gold.parquet").select("id", "name").write_parquet(asked)
    routed = route(str(served.file), str(asked), str(served.file.parent / "out.parquet"))
    assert routed.tiers == {"student": 30}


def test_a_broken_project_file_is_told_under_its_name(told: Told, tmp_path: Path) -> None:
    """Nobody knows the project then; the file's stem is the best name there is."""
    from flows.nightly import nightly

    broken = tmp_path / "torn.yaml"
    broken.write_text("project: torn\ntask: [")
    with pytest.raises(Exception, match="is not YAML"):
        nightly(str(broken))
    (event,) = told()
    assert (event.resource.id, event.payload["error"]) == ("flywheel.project.torn", "ConfigError")
