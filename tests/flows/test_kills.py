"""Kills of the standing stack in the middle of each job: what is run again ends as a run that nobody disturbed.

One `flywheel up` on PostgreSQL, by its two URLs. The project `shaken` is turned through its deployments and its worker
is killed in every job; the project `steady` has the same data and is turned in peace.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import psutil
import psycopg
import pytest
import yaml
from sqlalchemy import func, select

from deployments.stack.databases import PREFECT_DATABASE
from deployments.stack.register import JOBS
from deployments.teacher_sim import TeacherServer
from tasks.embedding.embed import cache_for
from tasks.embedding.vectors import encoder_settings
from tasks.project import TRACKING_URI, Project, load_project, with_driver
from tasks.promotion.tracking import registry_of
from tasks.promotion.unregistered import FOLDER
from tasks.store import Store, open_store, schema
from tasks.store.database import get_meta
from tasks.store.labels import effective_labels
from tasks.store.policies import policy_in_force
from tests.conftest import on_server, write_tiny_project
from tests.flows.conftest import recorded

pytestmark = pytest.mark.stack

FLYWHEEL = [sys.executable, "-m", "deployments.cli"]
PATIENCE_SECONDS = 400.0
LATENCY_MS = 150
IN_FLIGHT = 8
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass
class Stack:
    """A running `flywheel up` over some projects, and the teacher of all of them."""

    home: Path
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    teacher: TeacherServer

    @property
    def state(self) -> dict[str, Any]:
        """What `var/up.json` says."""
        state: dict[str, Any] = json.loads((self.home / "var" / "up.json").read_text())
        return state

    @property
    def said(self) -> str:
        """What `up` printed so far."""
        return (self.home / "up.err").read_text()

    def project(self, name: str) -> Project:
        """Its settings as the stack's jobs read them."""
        return load_project(self.home / "conf" / f"{name}.yaml", self.home)

    def store(self, name: str) -> Store:
        """Its database, opened anew."""
        project = self.project(name)
        return open_store(project.database_url, project.project)

    def ask(self, path: str, body: dict[str, Any] | None = None, expect: int | None = None) -> Any:
        """POST (or GET without a body) to Prefect's API; `expect` is the status that must come."""
        verb = "GET" if body is None else "POST"
        reply = httpx.request(verb, f"{self.state['prefect_api']}/{path}", json=body, timeout=120)
        if expect is None:
            reply.raise_for_status()
        else:
            assert reply.status_code == expect, reply.text
        return reply.json()

    def start(self, job: str, of: str, expect: int = 201, **form: Any) -> str:
        """Start a run as the form does; returns its id where it was let in."""
        deployment = self.ask(f"deployments/name/{job}/{of}")["id"]
        return str(
            self.ask(f"deployments/{deployment}/create_flow_run", {"parameters": form}, expect).get("id")
        )

    def run(self, run_id: str) -> dict[str, Any]:
        """A flow run as it stands."""
        found: dict[str, Any] = self.ask(f"flow_runs/{run_id}")
        return found

    def eventually(self, what: str, true: Callable[[], Any], pause_seconds: float = 0.5) -> Any:
        """The first true value."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (value := true()):
            assert self.process.poll() is None, f"up ended before {what}:\n{self.said}"
            assert time.monotonic() < deadline, f"no {what}:\n{self.said}"
            time.sleep(pause_seconds)
        return value

    def ended(self, run_id: str) -> dict[str, Any]:
        """The run when it has ended."""
        return self.eventually(
            f"end of {run_id}", lambda: run if (run := self.run(run_id))["state_type"] in ENDED else None
        )

    def done(self, job: str, project: str, **form: Any) -> None:
        """A run from its start to its good end."""
        run = self.ended(self.start(job, project, **form))
        assert run["state_type"] == "COMPLETED", run["state"]

    def killed_in(
        self,
        job: str,
        project: str,
        middle: Callable[[], Any],
        sign: signal.Signals = signal.SIGKILL,
        **form: Any,
    ) -> None:
        """Start a run, kill the worker in its middle, see the run swept, start it again, see it through.

        SIGKILL takes the job with it, as a power cut would; SIGTERM is the worker's alone.
        """
        run_id = self.start(job, project, **form)
        self.eventually(f"middle of {job}", middle, pause_seconds=0.02)
        worker = psutil.Process(self.state["processes"]["worker"][0])
        jobs = worker.children(recursive=True)
        assert jobs, "the job has a process"
        worker.send_signal(sign)
        for process in jobs if sign == signal.SIGKILL else ():
            process.kill()
        run = self.ended(run_id)
        assert run["state_type"] == "CRASHED", run["state"]
        assert not [process for process in jobs if process.is_running() and process.status() != "zombie"]
        self.done(job, project, **form)

    def at_work(self, job: str, project: str) -> Callable[[], Any]:
        """Whether a run of this job that was not there before is at work, by the project's own database."""
        store, runs = self.store(project), schema.runs.c
        before = store.scalar(select(func.max(runs.id))) or 0
        query = select(func.count()).where(runs.id > before, runs.job == job, runs.status == "running")
        return lambda: store.scalar(query)

    def paid(self, more: int) -> Callable[[], Any]:
        """Whether the teacher was paid for so many more answers."""
        until = self.teacher.stats()["paid"] + more
        return lambda: self.teacher.stats()["paid"] >= until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, postgresql_url: str) -> Iterator[Stack]:
    """`flywheel up` on two databases of its own, over three projects with one teacher."""
    home = tmp_path_factory.mktemp("kills")
    conf = home / "conf"
    names = [f"{server}_{uuid.uuid4().hex}" for server in ("prefect", "mlflow")]
    with psycopg.connect(with_driver(postgresql_url, None), autocommit=True) as connection:
        for name in names:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
    # As people write them: each server's driver is the stack's business.
    prefect, mlflow = (
        with_driver(postgresql_url, None).removesuffix("/postgres") + f"/{name}" for name in names
    )
    (home / "traffic").mkdir()
    write_tiny_project(conf)
    with (
        TeacherServer(recorded(conf), latency_ms=LATENCY_MS) as teacher,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(TRACKING_URI, mlflow)
        for name in ("shaken", "steady", "fragile"):
            write_tiny_project(
                conf,
                project=name,
                teacher={"base_url": teacher.base_url, "concurrency": IN_FLIGHT},
                routing={"audit_rate": 0.5, "target_error": 0.4, "confidence": 0.6},
                source={"traffic": f"traffic-{name}/*.parquet"},
                schedule={"nightly": None, "monitor": None},
            ).rename(conf / f"{name}.yaml")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {
            "FLYWHEEL_HOME": str(home),
            PREFECT_DATABASE: prefect,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
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
        running = Stack(home, process, environment, teacher)
        try:
            running.eventually("ready line", lambda: "ready after" in running.said)
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture(scope="module")
def traffic(stack: Stack) -> Path:
    """Thirty requests, ten of them about items that have labels."""
    conf = stack.home / "conf"
    known = pl.read_parquet(conf / "items.parquet").head(10)
    gold = pl.read_parquet(conf / "gold.parquet").select("id", "name").head(20)
    file = stack.home / "requests.parquet"
    pl.concat([known, gold]).write_parquet(file)
    for name in ("shaken", "steady"):
        # The coins of audits are drawn by it, and both are to toss the same ones.
        get_meta(stack.store(name), "audit_secret", "not a secret")
        (conf / f"traffic-{name}").mkdir()
        pl.concat([known, gold.head(5)]).with_columns(pl.concat_str("id", pl.lit("-night"))).write_parquet(
            conf / f"traffic-{name}" / "night.parquet"
        )
    return file


@pytest.fixture(scope="module")
def steady(stack: Stack, traffic: Path) -> dict[str, Any]:
    """What the same jobs leave that nobody disturbs."""
    from flows.clean import clean
    from flows.embed import embed
    from flows.label import label
    from flows.nightly import nightly
    from flows.promote import promote
    from flows.report import report
    from flows.retrain import recalibrate, retrain
    from flows.route import route

    file = str(stack.project("steady").file)
    with (
        on_server(stack.state["prefect_api"]),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("FLYWHEEL_HOME", str(stack.home))
        label(file)
        for job in (embed, clean, retrain, promote, recalibrate):
            job(file)
        route(file, str(traffic), str(stack.home / "steady.parquet"))
        nightly(file)
        report(file)
    return left(stack, "steady")


def left(stack: Stack, name: str) -> dict[str, Any]:
    """What counts of a project's state, without ids, times and prices."""
    project, store = stack.project(name), stack.store(name)
    answers, traffic = schema.answers.c, schema.traffic.c
    settings = encoder_settings(project.encoder)
    keys = store.read(select(schema.items.c.key))
    registry = registry_of(project)
    champion = registry.alias("champion")
    assert champion is not None
    policy = policy_in_force(store, champion)
    assert policy is not None
    found = {
        "items": sorted(keys["key"].to_list()),
        "answers": sorted(store.read(select(answers.key, answers["pass"], answers.label)).rows(), key=repr),
        "labels": sorted(effective_labels(store).select("key", "label", "source").rows()),
        "not encoded": cache_for(settings, project.cache_root).missing(keys).height,
        "routed": sorted(
            store.read(
                select(traffic.row_id, traffic.tier, traffic.label, traffic.audited, traffic.audit_owed)
            ).rows(),
            key=repr,
        ),
        "versions": registry.versions(),
        "champion": champion,
        "challenger": registry.alias("challenger"),
        "history": [line.split(" ", 1)[1] for line in registry.history()],
        "thresholds": policy.thresholds,
        "certified": policy.certified_coverage,
        "parent runs": _parent_runs(project),
        "retrains": sorted(file.name for file in (project.root / "retrains").iterdir()),
        "half done": sorted(
            file.name
            for file in project.root.rglob("*")
            if file.name.endswith((".part", ".tmp")) or file.name == FOLDER
        ),
        "at work": store.scalar(
            select(func.count()).select_from(schema.runs).where(schema.runs.c.status == "running")
        ),
        "leases": store.scalar(select(func.count()).select_from(schema.lease)),
    }
    store.close()
    return found


def _parent_runs(project: Project) -> list[tuple[str, str]]:
    """Names and states of the retrains' runs in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name(project.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'retrain'")
    return sorted((run.info.run_name, run.info.status) for run in runs)


def spent(stack: Stack, name: str) -> float:
    """Dollars in the ledger."""
    store = stack.store(name)
    dollars = float(store.scalar(select(func.sum(schema.calls.c.cost_usd))))
    store.close()
    return dollars


def test_both_servers_keep_their_rows_in_postgresql(stack: Stack, postgresql_url: str) -> None:
    """By plain URLs, shown without their password; Prefect's is this stack's alone, from whichever home.

    It stays so when the connection is cut that holds the database.
    """
    assert "databases Prefect postgresql://flywheel:***@127.0.0.1" in stack.said
    assert "a-secret-word" not in stack.said
    shown = [" ".join(one.cmdline()) for one in psutil.Process(stack.process.pid).children(recursive=True)]
    assert not [command for command in shown if "a-secret-word" in command]
    assert not list((stack.home / "var").rglob("prefect.db"))
    assert not (stack.home / "var" / "mlflow.db").exists()
    with psycopg.connect(with_driver(postgresql_url, None), autocommit=True) as connection:
        ours = "FROM pg_stat_activity WHERE application_name = 'flywheel up' AND datname LIKE 'prefect%'"
        (pid,) = connection.execute(f"SELECT pid {ours}".encode()).fetchone() or (None,)
        connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        stack.eventually(
            "another connection",
            lambda: (connection.execute(f"SELECT pid {ours}".encode()).fetchone() or (pid,))[0] != pid,
        )
    second = subprocess.run(
        [*FLYWHEEL, "up", "--conf", str(stack.home / "conf"), "--prefect-port", "0", "--mlflow-port", "0"],
        env=stack.environment | {"FLYWHEEL_HOME": str(stack.home / "elsewhere")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert second.returncode == 2, second.stderr
    assert "another `flywheel up` works on Prefect's database postgresql://flywheel:***@" in second.stderr


def test_no_form_takes_what_it_does_not_know(stack: Stack) -> None:
    """Each deployment refuses an unknown field and another project before there is a run."""
    for job in JOBS:
        stack.start(job, "shaken", 409, colour="red")
        stack.start(job, "shaken", 409, project=str(stack.project("steady").file))


def test_labelling_pays_again_for_what_was_in_flight_only(stack: Stack, steady: dict[str, Any]) -> None:
    """Killed with a sixth of the answers paid: each is in the ledger once, and at most a handful are paid twice."""
    before = stack.teacher.stats()["paid"]
    stack.killed_in("label", "shaken", stack.paid(20))
    paid = stack.teacher.stats()["paid"] - before
    assert 120 <= paid <= 120 + IN_FLIGHT
    store = stack.store("shaken")
    answers = store.read(select(schema.answers.c.key, schema.answers.c["pass"]))
    assert answers.height == answers.n_unique() == 120
    store.close()


def test_embedding_and_cleaning_go_on(stack: Stack, steady: dict[str, Any]) -> None:
    """Killed, and asked to end, as soon as they work."""
    stack.killed_in("embed", "shaken", stack.at_work("embed", "shaken"), signal.SIGTERM)
    stack.killed_in("clean", "shaken", stack.at_work("clean", "shaken"))


def test_a_retrain_killed_while_it_registers_does_not_train_again(
    stack: Stack, steady: dict[str, Any]
) -> None:
    """The trained model waits in its folder; the next run registers that one, as one version with one run."""
    waiting = stack.project("shaken").root / FOLDER
    marks: list[str] = []

    def trained() -> bool:
        if waiting.exists():
            marks.append(json.loads((waiting / "challenger.json").read_text())["mark"])
        return bool(marks)

    stack.killed_in("retrain", "shaken", trained)
    registry = registry_of(stack.project("shaken"))
    assert registry.versions() == registry.versions(trained=marks[0]) == ["1"]
    assert _parent_runs(stack.project("shaken")) == [("v1 linear", "FINISHED")]


def test_promoting_and_recalibrating_go_on(stack: Stack, steady: dict[str, Any]) -> None:
    """Killed as soon as they work."""
    stack.killed_in("promote", "shaken", stack.at_work("promote", "shaken"), approve=True)
    stack.killed_in("recalibrate", "shaken", stack.at_work("recalibrate", "shaken"))


def test_routing_answers_and_logs_each_request_once(
    stack: Stack, steady: dict[str, Any], traffic: Path
) -> None:
    """Killed while it asks the teacher: the second run's file is the undisturbed one's."""
    out = stack.home / "shaken.parquet"
    stack.killed_in("route", "shaken", stack.paid(2), file=str(traffic), out=str(out))
    assert pl.read_parquet(out).equals(pl.read_parquet(stack.home / "steady.parquet"))


def test_after_every_kill_the_end_is_an_undisturbed_ones(stack: Stack, steady: dict[str, Any]) -> None:
    """A nightly asked to end in its middle, the report killed: rows, models, thresholds are equal, nothing hangs."""
    store, runs = stack.store("shaken"), schema.runs.c
    cleaned = select(func.count()).where(
        runs.job == "nightly", runs.status == "running", runs.result.contains('"clean"')
    )
    stack.killed_in("nightly", "shaken", lambda: store.scalar(cleaned), signal.SIGTERM)
    store.close()
    stack.killed_in("report", "shaken", stack.at_work("report", "shaken"))
    found = left(stack, "shaken")
    assert {name: value for name, value in found.items() if value != steady[name]} == {}
    assert found["certified"] > 0
    # The ledger holds each answer once; which of them found the prompt in the provider's cache is chance.
    assert spent(stack, "shaken") == pytest.approx(spent(stack, "steady"), rel=0.1)
    alive = stack.ask(
        "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}}
    )
    assert not alive, [run["name"] for run in alive]


def test_a_file_broken_while_the_stack_runs_fails_its_own_runs_only(
    stack: Stack, steady: dict[str, Any]
) -> None:
    """The run says what is wrong and where; the project's deployments stay, and the other project's runs complete."""
    file = stack.project("fragile").file
    good = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(good | {"routing": {"audit_rat": 0.1}}))
    broken = stack.start("embed", "fragile")
    whole = stack.start("report", "steady")
    run = stack.ended(broken)
    assert run["state_type"] == "FAILED"
    assert (
        "fragile.yaml: routing.audit_rat: unknown key. Did you mean 'audit_rate'?" in run["state"]["message"]
    )
    assert stack.ended(whole)["state_type"] == "COMPLETED"
    stack.eventually("word about it", lambda: "skipped   " in stack.said and "fragile.yaml" in stack.said)
    file.write_text(yaml.safe_dump(good))
    assert stack.ask("deployments/name/embed/fragile")


def test_a_retrain_waits_for_an_mlflow_that_is_away(stack: Stack, steady: dict[str, Any]) -> None:
    """Its server is killed when all is trained: the step goes on trying until the stack has started another one."""
    file = stack.project("steady").file
    file.write_text(
        yaml.safe_dump(yaml.safe_load(file.read_text()) | {"mlflow": {"tracking_uri": stack.state["mlflow"]}})
    )
    project = stack.project("steady")
    run_id = stack.start("retrain", "steady")
    stack.eventually("training", (project.root / FOLDER).exists, pause_seconds=0.02)
    os.kill(stack.state["processes"]["mlflow-server"][0], signal.SIGKILL)
    run = stack.ended(run_id)
    assert run["state_type"] == "COMPLETED", run["state"]
    assert "mlflow-server ended (SIGKILL); starting it again" in stack.said
    assert registry_of(project).versions() == ["1", "2", "3"]
    assert _parent_runs(project)[-1] == ("v3 linear", "FINISHED")


def test_the_last_word_is_a_rollback_by_hand(stack: Stack, steady: dict[str, Any]) -> None:
    """Where the gate refused the night's version a form with a reason lets it serve; another gives its place back."""
    registry = registry_of(stack.project("shaken"))
    if registry.alias("champion") == "1":
        stack.done("promote", "shaken", force_reason="a fire drill")
    assert registry.alias("champion") == "2"
    stack.done("rollback", "shaken")
    assert registry.alias("champion") == "1"
