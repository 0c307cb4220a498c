"""Registers the deployments: every job of every project file, two with a schedule, and what events start them.

A short-lived program (`python -m deployments.stack.register CONF API`), so that `flywheel up` need not carry what the
flows import. It prints one JSON object and knows nothing of the processes around it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from deployments.stack.automations import automate, automations_held, forget
from deployments.stack.form import form_of
from deployments.stack.parts import JOBS_AT_ONCE, POOL
from deployments.stack.processes import answers_ok
from deployments.stack.projects import Found, find_projects, is_readable
from tasks.errors import ConfigError
from tasks.project import Project, flywheel_home

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.client.schemas.schedules import CronSchedule

JOBS = {
    "nightly": "flows.nightly",
    "label": "flows.label",
    "embed": "flows.embed",
    "clean": "flows.clean",
    "retrain": "flows.retrain",
    "recalibrate": "flows.retrain",
    "promote": "flows.promote",
    "rollback": "flows.promote",
    "route": "flows.route",
    "report": "flows.report",
    "monitor": "flows.monitor",
}
SCHEDULED = ("nightly", "monitor")
TAG = "flywheel"
SERVER_WAIT_SECONDS = 180.0


@dataclass
class Registered:
    """What was done: a line a project, a sentence a broken file, the deployments that are gone."""

    projects: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def register_all(conf: Path, client: SyncPrefectClient, home: Path) -> Registered:
    """Afterwards the server holds a deployment of every job for every project that loads, and its automations.

    What is there and unchanged stays untouched, so a schedule that somebody paused in the UI stays paused. A broken
    project file keeps what it had; a project whose file is gone, or has another name now, loses deployments and
    automations, not its runs. A folder that is away takes nothing with it.
    """
    found = find_projects(conf)
    done = Registered(broken=list(found.broken))
    make_pool(client)
    held, automations = _held(client), automations_held(client)
    for project in found.projects:
        try:
            schedules = {job: cron_of(project, job) for job in SCHEDULED}
        except ConfigError as error:
            done.broken.append(str(error))
            continue
        deployments = {
            job: register(
                client, job, project, schedules.get(job), home, held.get(f"{job}/{project.project}")
            )
            for job in JOBS
        }
        automate(client, project.project, deployments, automations)
        turns = (
            f"nightly {project.schedule.nightly} {project.schedule.timezone}"
            if schedules["nightly"]
            else "no schedule"
        )
        done.projects.append(f"{project.project} ({turns})")
    gone = _gone(held, found)
    if gone and not is_readable(conf):
        done.broken.append(f"{conf}: the folder is away; what was registered from it stays")
        gone = {}
    for name, deployment in gone.items():
        client.delete_deployment(deployment.id)
        done.removed.append(name)
    forget(client, {name.partition("/")[2] for name in done.removed}, automations)
    return done


def register(
    client: SyncPrefectClient,
    job: str,
    project: Project,
    schedule: CronSchedule | None,
    home: Path,
    held: DeploymentResponse | None = None,
) -> UUID:
    """Afterwards `job/PROJECT` stands on the server as this version of the code and the file want it; returns its id.

    Jobs are imported from the installed packages and work in the flywheel's home. One nightly at a time, and one look:
    what piled up while nothing ran is cancelled but for one. Other jobs of a project take turns by its lease
    (flows/job.py).
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions

    flow = getattr(importlib.import_module(JOBS[job]), job)
    is_loop = job in SCHEDULED
    specification: dict[str, Any] = {
        "entrypoint": f"{JOBS[job]}.{job}",
        "parameters": {"project": str(project.file)},
        "description": flow.description,
        "tags": [TAG, project.project],
        "job_variables": {"command": f"{sys.executable} -m prefect.engine", "working_dir": str(home)},
        "parameter_openapi_schema": form_of(flow, str(project.file)),
        "enforce_parameter_schema": True,
        "concurrency_limit": 1 if is_loop else None,
    }
    timed = schedule.model_dump(mode="json") if schedule and is_loop else None
    version = _hash([specification, timed, is_loop])
    if held is not None and held.version == version and held.work_pool_name == POOL:
        return held.id
    goes_on = not held or not held.schedules or any(one.active for one in held.schedules)
    return client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=project.project,
        version=version,
        work_pool_name=POOL,
        schedules=[DeploymentScheduleCreate(schedule=schedule, active=goes_on)]
        if schedule and is_loop
        else [],
        concurrency_options=ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
        if is_loop
        else None,
        paused=held.paused if held is not None else None,
        **specification,
    )


def cron_of(project: Project, job: str = "nightly") -> CronSchedule | None:
    """The project's schedule of a job, or None if it has none.

    Raises:
        ConfigError: no cron line, or no such time zone.
    """
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    cron = getattr(project.schedule, job)
    if cron is None:
        return None
    try:
        return CronSchedule(cron=cron, timezone=project.schedule.timezone)
    except ValidationError as error:
        detail = error.errors()[0]
        place = "schedule.timezone" if "timezone" in detail["loc"] else f"schedule.{job}"
        problem = detail["msg"].removeprefix("Value error, ")
        raise ConfigError(project.file, problem, 'A cron line ("0 2 * * *") or null; UTC.', place) from None


def make_pool(client: SyncPrefectClient) -> None:
    """Afterwards there is a work pool of processes for the worker to serve, so many at a time."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(
            WorkPoolCreate(
                name=POOL, type="process", base_job_template=template, concurrency_limit=JOBS_AT_ONCE
            )
        )
    except ObjectAlreadyExists:
        client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=JOBS_AT_ONCE))


def _gone(held: Mapping[str, DeploymentResponse], found: Found) -> dict[str, DeploymentResponse]:
    """Those whose project nobody is any longer: its file is gone, or is another project's by now."""
    names, files = {one.project for one in found.projects}, {str(one.file) for one in found.projects}
    gone = {}
    for name, deployment in held.items():
        file = str((deployment.parameters or {}).get("project") or "")
        if file and deployment.name not in names and (file in files or not Path(file).exists()):
            gone[name] = deployment
    return gone


def _held(client: SyncPrefectClient, page: int = 200) -> dict[str, DeploymentResponse]:
    """The deployments that are already there, by flow and name."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    flows = {client.create_flow_from_name(job): job for job in JOBS}
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    found: list[DeploymentResponse] = []
    while True:
        more = client.read_deployments(deployment_filter=ours, limit=page, offset=len(found))
        found += more
        if len(more) < page:
            return {f"{flows.get(one.flow_id, 'unknown')}/{one.name}": one for one in found}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def main(arguments: Sequence[str]) -> int:
    """Wait for the server at the second argument, register the projects of the folder at the first, print JSON."""
    from prefect.client.orchestration import SyncPrefectClient

    conf, api = Path(arguments[0]), arguments[1]
    for module in dict.fromkeys(JOBS.values()):
        importlib.import_module(module)  # takes seconds, in which the server starts
    deadline = time.monotonic() + SERVER_WAIT_SECONDS
    while not answers_ok(f"{api}/health"):
        if time.monotonic() > deadline:
            print(f"no answer from {api}", file=sys.stderr)
            return 1
        time.sleep(0.2)
    with SyncPrefectClient(api) as client:
        done = register_all(conf, client, flywheel_home())
    print(json.dumps(asdict(done)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
