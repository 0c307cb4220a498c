"""A person's yes and no for real: suspended runs under a Prefect server and a worker, answered through its API.

The same stack refuses bad values of the forms that start jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prefect import flow
from sqlalchemy import select

from deployments.stack.parts import claim, environment_of, prefect_server, worker
from deployments.stack.processes import Supervised, stop
from deployments.stack.register import register_all
from tasks.project import Project
from tasks.promotion.tracking import registry_of
from tasks.records import Promoted
from tasks.store import open_store, schema
from tasks.store.runs import working
from tests.conftest import on_server
from tests.promotion.shop import a_shop, a_version

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 400.0
ANSWER = {"decision": "approve", "name": "Ada", "reason": "it reads well"}


@dataclass
class Stack:
    """A Prefect server with a worker, and projects whose challenger a person must approve."""

    api: str
    shops: dict[str, Project]
    worker: Supervised

    def ask(self, path: str, body: dict[str, Any] | None = None, expect: int | None = None) -> Any:
        """POST (or GET without a body) to the API; `expect` is the status that must come."""
        verb = "GET" if body is None else "POST"
        reply = httpx.request(verb, f"{self.api}/{path}", json=body, timeout=60)
        assert reply.status_code == expect if expect else reply.is_success, reply.text
        return reply.json() if reply.content else None

    def deployment(self, job: str, shop: str) -> dict[str, Any]:
        """The deployment of a job of a project."""
        found: dict[str, Any] = self.ask(f"deployments/name/{job}/{shop}")
        return found

    def start(self, job: str, shop: str, expect: int = 201, **parameters: Any) -> str:
        """Start a run as the form does; returns its id where it was let in."""
        place = f"deployments/{self.deployment(job, shop)['id']}/create_flow_run"
        return str(self.ask(place, {"parameters": parameters}, expect).get("id"))

    def run(self, run_id: str) -> dict[str, Any]:
        """A flow run as it stands."""
        found: dict[str, Any] = self.ask(f"flow_runs/{run_id}")
        return found

    def eventually(self, run_id: str, *states: str) -> dict[str, Any]:
        """The run when it has reached one of the states."""
        return eventually(
            f"{' or '.join(states)} of {run_id}",
            lambda: run if (run := self.run(run_id))["state_type"] in states else None,
            lambda: f"{self.run(run_id)['state']}\n{self.worker.part.log.read_text()[-3000:]}",
        )

    def steps(self, run_id: str) -> list[str]:
        """The names of a run's steps, over all its processes."""
        runs = self.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return sorted(run["name"].rsplit("-", 1)[0] for run in runs)


def eventually(what: str, true: Callable[[], Any], why: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := true()):
        assert time.monotonic() < deadline, f"no {what}: {why()}"
        time.sleep(0.5)
    return value


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("approval")
    conf, addresses = home / "conf", claim("127.0.0.1", 0, 0)
    environment = {
        name: value
        for name, value in environment_of(addresses, home).items()
        if not name.startswith("PREFECT_") or name == "PREFECT_API_URL"
    } | {"PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "1"}
    server = Supervised(prefect_server(addresses, environment, home))
    hands = Supervised(worker(environment, home))
    server.start()
    try:
        shops = {}
        for name, hours in (("yes", 24), ("no", 24), ("silent", 0.003), ("newer", 24), ("night", 24)):
            asking = {"approval": "human", "approval_hours": hours}
            shops[name] = a_shop(conf, name, home, promotion=asking)
            a_version(shops[name])
        eventually("server", server.answers, lambda: server.part.log.read_text()[-3000:])
        from prefect.client.orchestration import SyncPrefectClient

        with SyncPrefectClient(addresses.prefect_api) as client:
            register_all(conf, client, home)
        hands.start()
        yield Stack(addresses.prefect_api, shops, hands)
    finally:
        stop([hands], 10)
        stop([server], 10)


@pytest.fixture(scope="module")
def asked(stack: Stack) -> dict[str, str]:
    """Promote runs that wait, or have waited, for a person: run id by project."""
    runs = {name: stack.start("promote", name) for name in ("yes", "no", "silent", "newer")}
    for run_id in runs.values():
        stack.eventually(run_id, "PAUSED", "FAILED", "CRASHED", "COMPLETED")
    return runs


def test_the_form_shows_the_comparison_and_wants_a_name_and_a_reason(
    stack: Stack, asked: dict[str, str]
) -> None:
    """No process waits; what a person sees is the comparison in Markdown; an answer without a reason is none."""
    run = stack.run(asked["yes"])
    assert run["state_name"] == "Suspended"
    keys = run["state"]["state_details"]["run_input_keyset"]
    place = f"{stack.api}/flow_runs/{run['id']}/input/{keys['description']}"
    # The server suspends the run first, and is given the form and its description then.
    eventually("description", lambda: httpx.get(place, timeout=60).is_success)
    assert "## Version 1 against no champion: waits for a person" in httpx.get(place, timeout=60).text
    for wrong in ({"decision": "perhaps"}, {"reason": " "}, {"name": ""}):
        # 200 instead of 201 is how this API says that it did not take the answer.
        said = stack.ask(f"flow_runs/{run['id']}/resume", {"run_input": ANSWER | wrong}, 200)
        assert said["status"] == "REJECT", said
    assert stack.run(asked["yes"])["state_type"] == "PAUSED"
    tags = registry_of(stack.shops["yes"]).tags("1")
    assert (tags["gate"], tags["approval_asked_in"]) == ("waits for a person", run["id"])


def test_approved_it_serves_and_nothing_was_done_twice(stack: Stack, asked: dict[str, str]) -> None:
    """One comparison, one answer, one move of the alias; who approved and why stands on the version and the page."""
    run_id, project = asked["yes"], stack.shops["yes"]
    registry = registry_of(project)
    assert registry.alias("champion") is None
    stack.ask(f"flow_runs/{run_id}/resume", {"run_input": ANSWER}, 201)
    ended = stack.eventually(run_id, "COMPLETED", "FAILED", "CRASHED")
    assert ended["state_type"] == "COMPLETED", ended["state"]
    assert registry.alias("champion") == "1"
    tags = registry.tags("1")
    assert (tags["approval"], tags["approval_by"], tags["approval_reason"]) == (
        "approved",
        "Ada",
        "it reads well",
    )
    assert len(registry.history()) == 1
    steps = stack.steps(run_id)
    assert steps.count("compare and promote") == 1
    assert steps.count("do what the person said") == 1
    store = open_store(project.database_url, project.project)
    ran = store.read(select(schema.runs.c.job, schema.runs.c.status))
    store.close()
    assert ran.rows() == [("promote", "done")] * 2, "the comparison, and the answer"
    pages = stack.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
    shown = {page["key"]: page["data"] for page in sorted(pages, key=lambda page: str(page["created"]))}
    assert "Ada says yes: it reads well" in shown["yes-promote-comparison"]
    assert "## promote" in shown["yes-promote"]


def test_rejected_the_version_stays_refused(stack: Stack, asked: dict[str, str]) -> None:
    """It is noted at once, and waits for its turn while another job works; then no champion, and the run ends well."""
    run_id, project = asked["no"], stack.shops["no"]
    registry, answer = registry_of(project), ANSWER | {"decision": "reject", "reason": "too early"}
    store = open_store(project.database_url, project.project)
    with working(store, project.project, "by hand"):
        stack.ask(f"flow_runs/{run_id}/resume", {"run_input": answer}, 201)
        logs = {"logs": {"flow_run_id": {"any_": [run_id]}}}
        eventually(
            "waiting for its turn",
            lambda: [
                log for log in stack.ask("logs/filter", logs) if "waiting for its turn" in log["message"]
            ],
            lambda: str(stack.run(run_id)["state"]),
        )
        assert stack.run(run_id)["state_type"] == "RUNNING"
        assert registry.tags("1")["approval_by"] == "Ada", "what was said waits for nobody"
    store.close()
    ended = stack.eventually(run_id, "COMPLETED", "FAILED", "CRASHED")
    assert ended["state_type"] == "COMPLETED", ended["state"]
    assert registry.alias("champion") is None
    tags = registry.tags("1")
    assert (tags["gate"], tags["approval"], tags["gate_reasons"]) == (
        "refused",
        "rejected",
        "Ada says no: too early",
    )


def test_silence_ends_the_run_and_is_a_refusal(stack: Stack, asked: dict[str, str]) -> None:
    """When the time is over the server fails the run, a late answer moves nothing, and the next look says no."""
    run_id, project = asked["silent"], stack.shops["silent"]
    ended = stack.eventually(run_id, "FAILED", "COMPLETED", "CRASHED")
    assert ended["state"]["message"] == "The flow was paused and never resumed."
    httpx.post(f"{stack.api}/flow_runs/{run_id}/resume", json={"run_input": ANSWER}, timeout=60)
    assert stack.run(run_id)["state_type"] == "FAILED"
    [night] = nights(stack, project, 1)
    assert "nobody answered until" in night.reasons[0], "who was asked and said nothing is not asked again"
    assert registry_of(project).alias("champion") is None
    assert registry_of(project).tags("1")["approval"] == "expired"


def test_an_answer_about_an_older_version_asks_nothing_else(stack: Stack, asked: dict[str, str]) -> None:
    """A newer challenger came before it: the run says so and ends, and the newer one is not its business."""
    run_id, project = asked["newer"], stack.shops["newer"]
    newer = a_version(project)
    stack.ask(f"flow_runs/{run_id}/resume", {"run_input": ANSWER}, 201)
    ended = stack.eventually(run_id, "COMPLETED", "FAILED", "CRASHED", "PAUSED")
    assert ended["state_type"] == "COMPLETED", ended["state"]
    assert stack.steps(run_id).count("compare and promote") == 1
    registry = registry_of(project)
    assert registry.alias("champion") is None
    assert "approval" not in registry.tags(newer)


def nights(stack: Stack, project: Project, times: int) -> list[Promoted]:
    """What promote says as part of a nightly run, time after time."""
    from flows.promote import promote

    @flow(name="a night")
    def night() -> list[Promoted]:
        return [promote(str(project.file)) for _ in range(times)]

    with on_server(stack.api), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_HOME", str(project.home))
        return night()


def test_a_chain_lets_another_run_ask_and_waits_for_nobody(stack: Stack) -> None:
    """As part of a nightly run promote ends at once; a run of its deployment takes the question up, once.

    Where that run crashed, the next night starts another one to ask.
    """
    project = stack.shops["night"]
    first, second = nights(stack, project, 2)
    assert (first.promoted, first.waiting) == (False, True)
    assert "a person is asked in the Prefect UI until" in second.reasons[0]
    run_id = registry_of(project).tags("1")["approval_asked_in"]
    assert stack.eventually(run_id, "PAUSED", "FAILED", "CRASHED", "COMPLETED")["state_name"] == "Suspended"
    assert "compare and promote" not in stack.steps(run_id), "the chain's comparison is the one that is shown"
    started = stack.ask(
        "flow_runs/count", {"deployments": {"id": {"any_": [stack.deployment("promote", "night")["id"]]}}}
    )
    assert started == 1

    crashed = {"state": {"type": "CRASHED"}, "force": True}
    stack.ask(f"flow_runs/{run_id}/set_state", crashed, 201)
    third, fourth = nights(stack, project, 2)
    assert third.waiting, "nobody could have answered"
    assert "a person is asked in the Prefect UI until" in fourth.reasons[0]
    again = registry_of(project).tags("1")["approval_asked_in"]
    assert again != run_id
    assert stack.eventually(again, "PAUSED", "FAILED", "CRASHED", "COMPLETED")["state_name"] == "Suspended"


@pytest.mark.parametrize(
    ("job", "wrong"),
    [
        ("label", {"limit": 0}),
        ("label", {"limit": "many"}),
        ("label", {"budget_usd": -1}),
        ("label", {"batches": "perhaps"}),
        ("label", {"project": "another.yaml"}),
        ("label", {"color": "red"}),
        ("promote", {"force_reason": ""}),
        ("promote", {"approve": "whenever"}),
        ("route", {"file": "", "out": "out.csv"}),
    ],
)
def test_a_form_with_a_bad_value_starts_nothing(stack: Stack, job: str, wrong: dict[str, Any]) -> None:
    """The server refuses it with 409 before there is a run."""
    stack.start(job, "yes", 409, **wrong)


def test_a_form_explains_itself_and_holds_its_project(stack: Stack) -> None:
    """Each field has its help text; the project is chosen already and has no other choice."""
    fields = stack.deployment("label", "yes")["parameter_openapi_schema"]["properties"]
    assert fields["project"]["enum"] == [str(stack.shops["yes"].file)]
    assert "Ask about at most so many items" in fields["limit"]["description"]
    assert all(field.get("description") for field in fields.values())
    # An empty field, not a choice between `int` and `None` first.
    assert (fields["limit"]["type"], fields["limit"]["minimum"]) == ("integer", 1)
    assert fields["budget_usd"]["title"] == "Budget"
