"""What every job begins and ends with: the project file read, the lease held, a row in `runs`, a page in the UI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from flows.page import publish
from tasks.errors import BusyError
from tasks.project import Project, load_project
from tasks.store import Store, open_store
from tasks.store.runs import Run, working

WAIT_SECONDS = 600.0
LOOK_SECONDS = 5.0


@contextmanager
def job(project: str, name: str, **parameters: Any) -> Iterator[tuple[Project, Run]]:
    """The project's settings and the running job; inside another job of this process, that one's row.

    What the job adds to the run's result stands on the flow run's page when it ends well. A job that was started in
    the UI or by a schedule while another one works waits for its turn, for ten minutes; one of the command line is
    refused at once.

    Raises:
        ConfigError: the project file is wrong.
        BusyError: another run of this project works.
    """
    settings = load_project(project)
    store = open_store(settings.database_url, settings.project)
    try:
        with ExitStack() as held:
            run = _turn(held, store, settings.project, name, parameters)
            before = dict(run.result)
            yield settings, run
            done = {part: value for part, value in run.result.items() if before.get(part) is not value}
        publish(settings, name, done)
    finally:
        store.close()


def _turn(held: ExitStack, store: Store, project: str, name: str, parameters: dict[str, Any]) -> Run:
    context = FlowRunContext.get()
    deployed = (
        context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None
    )
    until, told = time.monotonic() + (WAIT_SECONDS if deployed else 0.0), False
    while True:
        try:
            return held.enter_context(working(store, project, name, parameters))
        except BusyError as busy:
            if time.monotonic() >= until:
                raise
            if not told:
                get_run_logger().info("waiting for its turn: %s", busy)
                told = True
        time.sleep(LOOK_SECONDS)
