"""The automations of a project: which event starts which of its deployments.

Made, changed and taken away through the API; when an event is told is the flows' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from uuid import UUID

from flows.events import ADVISED, DRIFT, NEW_LABELS, resource_of

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation, AutomationCore

TAG = "flywheel"
STARTS = {
    "drift recalibrates": (DRIFT, "recalibrate"),
    "drift starts the nightly run": (DRIFT, "nightly"),
    "many new labels start the nightly run": (NEW_LABELS, "nightly"),
}


def automate(
    client: SyncPrefectClient, project: str, deployments: Mapping[str, UUID], held: Mapping[str, Automation]
) -> None:
    """Afterwards each event of the project starts the job that it advises, with the deployment's own parameters.

    What is there and right stays untouched; one that somebody switched off in the UI stays switched off.

    Args:
        client: of the server.
        project: its name.
        deployments: id by job.
        held: the flywheel's automations that are there, by name.
    """
    for what, (event, job) in STARTS.items():
        wanted = _automation(project, what, event, job, deployments[job])
        there = held.get(wanted.name)
        if there is None:
            client.create_automation(wanted)
        elif _essence(there) != _essence(wanted):
            # the client leaves out what was not given, the kind of trigger and action too: so all of it is given
            whole = wanted.model_dump(exclude={"owner_resource"}) | {"enabled": there.enabled}
            client.update_automation(there.id, type(wanted).model_validate(whole))


def automations_held(client: SyncPrefectClient, page: int = 100) -> dict[str, Automation]:
    """The flywheel's automations on the server, by name."""
    found: list[Automation] = []
    while True:
        more = client.read_automations(limit=page, offset=len(found))
        found += more
        if len(more) < page:
            return {one.name: one for one in found if TAG in one.tags}


def forget(client: SyncPrefectClient, projects: Iterable[str], held: Mapping[str, Automation]) -> None:
    """Afterwards the automations of those projects are gone."""
    names = {_name(project, what) for project in projects for what in STARTS}
    for name in names & held.keys():
        client.delete_automation(held[name].id)


def _automation(project: str, what: str, event: str, job: str, deployment: UUID) -> AutomationCore:
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    return AutomationCore(
        name=_name(project, what),
        description=f"{event} of {project} starts {job}/{project} ahead of its schedule.",
        tags=[TAG, project],
        trigger=EventTrigger(
            expect={event},
            match={"prefect.resource.id": resource_of(project), ADVISED: job},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[RunDeployment(source="selected", deployment_id=deployment)],
    )


def _name(project: str, what: str) -> str:
    return f"{project}: {what}"


def _essence(automation: AutomationCore) -> object:
    return automation.model_dump(mode="json", include={"description", "tags", "trigger", "actions"})
