"""What the jobs tell the Prefect server about a project, for automations to act on (deployments/stack/automations.py).

Whether somebody acts is not known here, and nothing waits for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.exceptions import MissingResult
from prefect.settings import PREFECT_API_URL

from tasks.errors import FlywheelError
from tasks.project import load_project

DRIFT, NEW_LABELS, NIGHTLY_FAILED = "flywheel.drift", "flywheel.new-labels", "flywheel.nightly-failed"
ADVISED = "flywheel.advised"
LONGEST = 2000


def resource_of(project: str) -> str:
    """What events about a project of that name are about."""
    return f"flywheel.project.{project}"


def somebody_listens() -> bool:
    """Whether this run's server stands longer than the run: that of one command alone has no automations."""
    return bool(PREFECT_API_URL.value())


def tell(project: str, event: str, payload: dict[str, Any], advised: str | None = None) -> bool:
    """Whether the event is on its way to the server; the job that it advises is a label automations can match.

    Nobody answers for its arrival: whether the job came about is seen in the project's own runs (drift_alarms.py).
    """
    resource = {"prefect.resource.id": resource_of(project), "prefect.resource.name": project}
    return emit_event(event, resource | ({ADVISED: advised} if advised else {}), payload=payload) is not None


def tell_of_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A flow's hook for `on_failure` and `on_crashed`: an event with the class and the words of the error.

    The run's own process calls it; where that was killed, the worker does.
    """
    file = str(flow_run.parameters["project"])
    try:
        name = load_project(file).project
    except FlywheelError:
        name = Path(file).stem  # the file itself may be what failed
    try:
        error: Any = state.result(raise_on_failure=False)
    except MissingResult:
        error = None
    message = str(error) if isinstance(error, BaseException) else state.message or ""
    kind = type(error).__name__ if isinstance(error, BaseException) else state.name or "Failed"
    tell(
        name,
        NIGHTLY_FAILED,
        {"project": name, "error": kind, "message": message[:LONGEST], "run": str(flow_run.id)},
    )
