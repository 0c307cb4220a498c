"""Runs that the server believes are alive although their process is gone: said to have crashed.

Speaks plain HTTP to the Prefect API, because `flywheel up` does not import Prefect. Knows this machine's processes
only.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from deployments.stack.parts import POOL

TAG = "flywheel"  # of every deployment, beside its project's name
ALIVE = ["RUNNING", "PENDING", "CANCELLING"]


def sweep(api: str, reason: str, worker_since: float | None = None) -> list[str]:
    """Afterwards no run of the pool is shown as alive that no process works on; returns their names.

    Of a nightly run its project is told, too, as the run itself would have done (flows/events.py).

    The runs are looked up before the processes, and those without one once more: a run that begins or ends meanwhile is
    none of them.

    Args:
        api: of the Prefect server.
        reason: what is said about them.
        worker_since: seconds since 1970 at which the worker that is at work was started, None while none is. A run that
            it has taken up has no process yet, so what has changed since then is left to it.

    Raises:
        OSError: the API does not answer.
    """
    seen = _runs(api, {"work_pools": {"name": {"any_": [POOL]}}, "flow_runs": _alive()})
    working = runs_with_a_process()
    lost = [run["id"] for run in seen if run["id"] not in working and not _changed_since(run, worker_since)]
    inside: dict[str, Any] = {"id": {"any_": lost}}
    swept, nightly = [], _nightly_flows(api) if lost else set()
    while lost and (ended := _runs(api, {"flow_runs": _alive() | inside})):
        for run in ended:
            state = {
                "type": "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED",
                "message": reason,
            }
            call(api, f"flow_runs/{run['id']}/set_state", {"state": state, "force": True})
            swept.append(str(run["name"]))
            if state["type"] == "CRASHED" and run["flow_id"] in nightly:
                _tell(api, run, reason)
        inside = {"parent_flow_run_id": {"any_": [run["id"] for run in ended]}}
    return swept


def runs_with_a_process() -> Collection[str]:
    """The flow runs that a process of this user works on, by their ids."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
        except (psutil.Error, OSError):
            continue
    return found - {""}


def worker_is_online(api: str) -> bool:
    """Whether a worker of the pool has reported lately."""
    workers = call(api, f"work_pools/{POOL}/workers/filter", {"workers": {"status": {"any_": ["ONLINE"]}}})
    return bool(workers)


def call(
    api: str, path: str, body: dict[str, Any] | list[dict[str, Any]], timeout_seconds: float = 10.0
) -> Any:
    """POST to the Prefect API.

    Raises:
        OSError: no answer, or an error instead of one.
    """
    request = urllib.request.Request(
        f"{api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout_seconds) as reply:
        return json.loads(reply.read() or b"null")


def _nightly_flows(api: str) -> set[str]:
    return {flow["id"] for flow in call(api, "flows/filter", {"flows": {"name": {"any_": ["nightly"]}}})}


def _tell(api: str, run: Mapping[str, Any], reason: str) -> None:
    project = next((tag for tag in run["tags"] if tag != TAG), TAG)
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "flywheel.nightly-failed",
        "resource": {"prefect.resource.id": f"flywheel.project.{project}", "prefect.resource.name": project},
        "payload": {"project": project, "error": "CrashedRun", "message": reason, "run": run["id"]},
    }
    call(api, "events", [event])


def _alive() -> dict[str, Any]:
    return {"state": {"type": {"any_": ALIVE}}}


def _changed_since(run: Mapping[str, Any], moment: float | None) -> bool:
    return moment is not None and datetime.fromisoformat(run["state"]["timestamp"]).timestamp() >= moment


def _runs(api: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = call(api, "flow_runs/filter", query | {"limit": 200})
    return runs
