"""Which runs are said to have crashed, against an API whose answers change as a working server's do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from deployments.stack.zombies import runs_with_a_process, sweep

LONG_AGO = time.time() - 3600


@dataclass
class Api:
    """Runs by id, as Prefect's API gives them, and what was made of them."""

    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    told: list[tuple[str, str]] = field(default_factory=list)
    after_first_look: Callable[[], None] = field(default=lambda: None)
    looks: int = 0

    def add(
        self, name: str, state: str = "RUNNING", since: float = LONG_AGO, inside: str | None = None
    ) -> None:
        """A run in a state since then; part of another one, or the pool's."""
        moment = datetime.fromtimestamp(since, UTC).isoformat().replace("+00:00", "Z")
        self.runs[name] = {
            "id": name, "name": name, "state_type": state, "state": {"timestamp": moment}, "inside": inside,
            "tags": ["flywheel", "shop"], "flow_id": "the nightly's" if name.startswith("nightly") else "another",
        }  # fmt: skip

    def answer(self, path: str, body: Any) -> Any:
        """As the server would, as far as the sweep asks."""
        if path.endswith("/set_state"):
            run = self.runs[path.split("/")[-2]]
            run["state_type"] = body["state"]["type"]
            self.said[run["id"]] = f"{body['state']['type']}: {body['state']['message']}"
            return {}
        if path.endswith("/flows/filter"):
            return [{"id": "the nightly's"}]
        if path.endswith("/events"):
            self.told += [(one["event"], one["resource"]["prefect.resource.id"]) for one in body]
            return None
        wanted = body["flow_runs"]
        alive = [run for run in self.runs.values() if run["state_type"] in wanted["state"]["type"]["any_"]]
        if "id" in wanted:
            found = [run for run in alive if run["id"] in wanted["id"]["any_"]]
        elif "parent_flow_run_id" in wanted:
            found = [run for run in alive if run["inside"] in wanted["parent_flow_run_id"]["any_"]]
        else:
            found = [run for run in alive if run["inside"] is None]
        reply = json.loads(json.dumps(found))
        self.looks += 1
        if self.looks == 1:
            self.after_first_look()
        return reply


@pytest.fixture
def api() -> Iterator[Api]:
    played = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = json.dumps(played.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    played.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield played
    server.shutdown()
    server.server_close()


@pytest.fixture
def works_on() -> Iterator[Callable[[str], None]]:
    """`works_on(run)` starts a process that works on it, as a worker's does."""
    started: list[subprocess.Popen[bytes]] = []

    def start(run: str) -> None:
        environment = os.environ | {"PREFECT__FLOW_RUN_ID": run}
        started.append(
            subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE)
        )
        while run not in runs_with_a_process():
            time.sleep(0.01)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_only_what_no_process_works_on_has_crashed(api: Api, works_on: Callable[[str], None]) -> None:
    """With what is inside it; a run that was to be cancelled is."""
    works_on("at-work")
    for name, state in (
        ("at-work", "RUNNING"),
        ("left", "RUNNING"),
        ("unwanted", "CANCELLING"),
        ("over", "COMPLETED"),
    ):
        api.add(name, state)
    api.add("part-of-left", inside="left")
    assert sorted(sweep(api.url, "why")) == ["left", "part-of-left", "unwanted"]
    assert api.said == {"left": "CRASHED: why", "part-of-left": "CRASHED: why", "unwanted": "CANCELLED: why"}


def test_a_run_whose_process_begins_meanwhile_goes_on(api: Api, works_on: Callable[[str], None]) -> None:
    """Processes are looked at after the runs, so none that the worker has just started is missed."""
    api.add("just-begun", "PENDING")
    api.after_first_look = lambda: works_on("just-begun")
    assert sweep(api.url, "why") == []


def test_a_run_that_ends_meanwhile_keeps_its_end(api: Api) -> None:
    """Its process is gone because it is done."""
    api.add("done")
    api.after_first_look = lambda: api.runs["done"].update(state_type="COMPLETED")
    assert sweep(api.url, "why") == []
    assert api.said == {}


def test_what_the_worker_has_taken_up_since_it_was_started_is_its_own(api: Api) -> None:
    """A late sweep, with a worker at work: a pending run of its own has no process yet, an older one never gets one."""
    restarted = time.time() - 60
    api.add("taken-up", "PENDING", since=restarted + 59)
    api.add("left", "PENDING", since=restarted - 1)
    assert sweep(api.url, "why", restarted) == ["left"]
    assert sweep(api.url, "why") == ["taken-up"], "without a worker nobody will take it up"


def test_a_nightly_that_was_lost_is_told_to_its_project(api: Api) -> None:
    """As its own hook would have done, had its process not gone with the machine; of other jobs nothing is told."""
    api.add("nightly-run")
    api.add("report-run")
    api.add("retrain-run", inside="nightly-run")
    assert sorted(sweep(api.url, "lost")) == ["nightly-run", "report-run", "retrain-run"]
    assert api.told == [("flywheel.nightly-failed", "flywheel.project.shop")]
