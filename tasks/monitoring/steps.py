"""The Prefect steps of monitoring: has anything changed, has traffic drifted, and the report."""

from __future__ import annotations

import time
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.labeling.batch_book import what_waits
from tasks.monitoring.drift_look import Looked, look, note_alarms
from tasks.monitoring.wheel import remember, remembered_state, wheel_state
from tasks.project import Project
from tasks.retries import AGAIN
from tasks.sources import expand
from tasks.store import Store, open_store
from tasks.store.labels import newest_label_id
from tasks.whole_files import written_whole


@task(name="has anything changed", cache_policy=NO_CACHE, **AGAIN)
def nothing_changed(project: Project) -> bool:
    """True when this turn brought nothing and the last one was complete, or the very first labels are on their way."""
    store = open_store(project.database_url, project.project)
    if not newest_label_id(store) and what_waits(store).batches:
        return True  # a night that has sent its first batch has nothing to learn from yet
    return remembered_state(store) == _state(project, store)


@task(name="remember the turn", cache_policy=NO_CACHE, **AGAIN)
def remember_state(project: Project) -> None:
    """Afterwards the next turn knows what this one saw."""
    store = open_store(project.database_url, project.project)
    remember(store, _state(project, store))


@task(name="look for drift", cache_policy=NO_CACHE, **AGAIN)
def look_for_drift(project: Project) -> Looked:
    """What has changed since the policy in force was issued, and which alarms are new; nothing is written."""
    return look(project, open_store(project.database_url, project.project), time.time())


@task(name="note what was raised", cache_policy=NO_CACHE, **AGAIN)
def note_what_was_raised(project: Project, looked: Looked) -> None:
    """Afterwards the alarms that this look found new are new no more."""
    note_alarms(project, open_store(project.database_url, project.project), looked)


@task(name="write the report", cache_policy=NO_CACHE, **AGAIN)
def write_report(project: Project) -> str:
    """Afterwards one HTML page under the project's root says how the wheel stands."""
    from tasks.monitoring.facts import report_facts
    from tasks.monitoring.report import render_report

    store = open_store(project.database_url, project.project)
    place = project.root / "report" / "index.html"
    page = render_report(report_facts(project, store))
    with written_whole(place) as beside:
        beside.write_text(page, encoding="utf-8")
    return str(place)


def _state(project: Project, store: Store) -> dict[str, Any]:
    gold = expand(project.gold, project.file.parent) if project.gold else []
    task = project.task
    files = [*gold, *(project.resolve(file) for file in (task.taxonomy, task.moved) if file is not None)]
    sections = (project.encoder, project.student, project.cleaning, project.routing)
    return wheel_state(store, files, "".join(section.model_dump_json() for section in sections))
