"""What every job begins with: the project file read, the lease held, a row in `runs`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.project import Project, load_project
from tasks.store import open_store
from tasks.store.runs import Run, working


@contextmanager
def job(project: str, name: str, **parameters: Any) -> Iterator[tuple[Project, Run]]:
    """The project's settings and the running job; inside another job of this process, that one's row.

    Raises:
        ConfigError: the project file is wrong.
        BusyError: another run of this project works.
    """
    settings = load_project(project)
    store = open_store(settings.database_url, settings.project)
    try:
        with working(store, settings.project, name, parameters) as run:
            yield settings, run
    finally:
        store.close()
