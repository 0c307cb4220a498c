"""Registers the deployments: every job of every project file, the nightly one with its schedule.

A short-lived program (`python -m deployments.stack.register CONF API`), so that `flywheel up` need not carry what the
flows import. It prints one JSON object and knows nothing of the processes around it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.stack.parts import JOBS_AT_ONCE, POOL
from deployments.stack.processes import answers_ok
from deployments.stack.projects import find_projects
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
}
TAG = "flywheel"
SERVER_WAIT_SECONDS = 180.0


@dataclass
class Registered:
    """What was done: a line a project, a sentence a broken file, the deployments that are gone."""

    projects: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def register_all(conf: Path, client: SyncPrefectClient, home: Path) -> Registered:
    """Afterwards the server holds a deployment of every job for every project that loads.

    What is there and unchanged stays untouched, so a schedule that somebody paused in the UI stays paused. A broken
    project file keeps what it had; a project whose file is gone loses its deployments, not its runs.
    """
    found = find_projects(conf)
    done = Registered(broken=list(found.broken))
    make_pool(client)
    held = _held(client)
    for project in found.projects:
        try:
            schedule = cron_of(project)
        except ConfigError as error:
            done.broken.append(str(error))
            continue
        for job in JOBS:
            register(client, job, project, schedule, home, held.get(f"{job}/{project.project}"))
        turns = (
            f"nightly {project.schedule.nightly} {project.schedule.timezone}" if schedule else "no schedule"
        )
        done.projects.append(f"{project.project} ({turns})")
    for name, deployment in held.items():
        file = (deployment.parameters or {}).get("project")
        if file and not Path(str(file)).exists():
            client.delete_deployment(deployment.id)
            done.removed.append(name)
    return done


def register(
    client: SyncPrefectClient,
    job: str,
    project: Project,
    schedule: CronSchedule | None,
    home: Path,
    held: DeploymentResponse | None = None,
) -> None:
    """Afterwards `job/PROJECT` stands on the server as this version of the code and the file want it.

    Jobs are imported from the installed packages and work in the flywheel's home. One nightly at a time: what piled
    up while nothing ran is cancelled but for one. Two other jobs of a project take turns by its lease (flows/job.py).
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
    from prefect.utilities.callables import parameter_schema

    flow = getattr(importlib.import_module(JOBS[job]), job)
    is_loop = job == "nightly"
    form = parameter_schema(flow).model_dump(exclude_unset=True)
    # A deployment is one project's: the form shows which, and the server refuses any other, as it does unknown fields.
    form["additionalProperties"] = False
    form["properties"]["project"] |= {"enum": [str(project.file)], "default": str(project.file)}
    specification: dict[str, Any] = {
        "entrypoint": f"{JOBS[job]}.{job}",
        "parameters": {"project": str(project.file)},
        "description": flow.description,
        "tags": [TAG, project.project],
        "job_variables": {"command": f"{sys.executable} -m prefect.engine", "working_dir": str(home)},
        "parameter_openapi_schema": form,
        "enforce_parameter_schema": True,
        "concurrency_limit": 1 if is_loop else None,
    }
    timed = schedule.model_dump(mode="json") if schedule and is_loop else None
    version = _hash([specification, timed, is_loop])
    if held is not None and held.version == version and held.work_pool_name == POOL:
        return
    goes_on = not held or not held.schedules or any(one.active for one in held.schedules)
    client.create_deployment(
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


def cron_of(project: Project) -> CronSchedule | None:
    """The project's schedule, or None if it has none.

    Raises:
        ConfigError: no cron line, or no such time zone.
    """
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    if project.schedule.nightly is None:
        return None
    try:
        return CronSchedule(cron=project.schedule.nightly, timezone=project.schedule.timezone)
    except ValidationError as error:
        detail = error.errors()[0]
        place = "schedule.timezone" if "timezone" in detail["loc"] else "schedule.nightly"
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
