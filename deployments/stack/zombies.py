"""Runs that the server believes are alive although their process is gone: said to have crashed.

Speaks plain HTTP to the Prefect API, because `flywheel up` does not import Prefect. Knows this machine's processes
only.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Collection
from typing import Any

from deployments.stack.parts import POOL

ALIVE = ["RUNNING", "PENDING", "CANCELLING"]


def sweep(api: str, reason: str) -> list[str]:
    """Afterwards no run of the pool is shown as alive that no process works on; returns their names.

    Raises:
        OSError: the API does not answer.
    """
    working = runs_with_a_process()
    swept = []
    lost = _runs(api, {"work_pools": {"name": {"any_": [POOL]}}, "flow_runs": _alive()})
    lost = [run for run in lost if run["id"] not in working]
    while lost:
        for run in lost:
            ended = "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED"
            state = {"type": ended, "message": reason}
            call(api, f"flow_runs/{run['id']}/set_state", {"state": state, "force": True})
            swept.append(str(run["name"]))
        inside = {"parent_flow_run_id": {"any_": [run["id"] for run in lost]}}
        lost = _runs(api, {"flow_runs": _alive() | inside})
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


def call(api: str, path: str, body: dict[str, Any], timeout_seconds: float = 10.0) -> Any:
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


def _alive() -> dict[str, Any]:
    return {"state": {"type": {"any_": ALIVE}}}


def _runs(api: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = call(api, "flow_runs/filter", query | {"limit": 200})
    return runs
