"""What every job begins and ends with: the project file read, the lease held, a row in `runs`, a page in the UI."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from flows.page import key_of, publish
from flows.progress import progress_on_page
from tasks.errors import BusyError
from tasks.project import Approval, Project, load_project
from tasks.store import open_store
from tasks.store.runs import Run, working

# Longer than whoever holds the lease may try a step again in vain (tasks/retries.py): eight minutes where an address
# refuses calls.
WAIT_SECONDS = 1200.0
LOOK_SECONDS = 5.0

_terms: ContextVar[tuple[float | None, Approval | None]] = ContextVar("terms", default=(None, None))


@contextmanager
def job(
    project: str,
    name: str,
    *,
    budget_usd: float | None = None,
    approval: Approval | None = None,
    **parameters: Any,
) -> Iterator[tuple[Project, Run]]:
    """The project's settings and the running job; inside another job of this process, that one's row.

    What the job adds to the run's result stands on the flow run's page when it ends well. A job that was started in
    the UI or by a schedule while another one works waits for its turn, for twenty minutes; one of the command line is
    refused at once.

    Args:
        project: path of the project file.
        name: the job's.
        budget_usd: instead of the file's `teacher.budget_usd`, here and in the jobs inside this one.
        approval: instead of the file's `promotion.approval`, likewise.
        parameters: further ones, for the row.

    Raises:
        ConfigError: the project file is wrong.
        BusyError: another run of this project works.
    """
    around = _terms.get()
    terms = (around[0] if budget_usd is None else budget_usd, approval or around[1])
    settings = load_project(project).with_budget(terms[0]).with_approval(terms[1])
    given = {"budget_usd": budget_usd, "approval": approval}
    parameters |= {term: value for term, value in given.items() if value is not None}
    store = open_store(settings.database_url, settings.project)
    token = _terms.set(terms)
    try:
        with ExitStack() as held:
            run = wait_for_turn(
                lambda: held.enter_context(working(store, settings.project, name, parameters)),
                WAIT_SECONDS if _is_deployed() else 0.0,
            )
            before = dict(run.result)
            with progress_on_page(key_of(settings, name)):
                yield settings, run
            done = {part: value for part, value in run.result.items() if before.get(part) is not value}
        publish(settings, name, done)
    finally:
        _terms.reset(token)
        store.close()


def wait_for_turn(
    begin: Callable[[], Run],
    seconds: float,
    now: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Run:
    """The run as soon as it may begin.

    Raises:
        BusyError: another one still works after so many seconds.
    """
    until, told = now() + seconds, False
    while True:
        try:
            return begin()
        except BusyError as busy:
            if now() >= until:
                raise
            if not told and FlowRunContext.get() is not None:
                get_run_logger().info("waiting for its turn: %s", busy)
                told = True
        pause(LOOK_SECONDS)


def _is_deployed() -> bool:
    """Whether the run is a deployment's: started in the UI, by a schedule or by an automation."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None
