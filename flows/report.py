"""Report: one self-contained HTML page on how the wheel stands."""

from __future__ import annotations

from prefect import flow

from flows.job import job
from tasks.monitoring.steps import write_report


@flow(name="report")
def report(project: str) -> str:
    """Write the report; returns where it lies.

    Args:
        project: path of the project file.
    """
    with job(project, "report") as (settings, run):
        place = write_report(settings)
        run.result["report"] = place
        return place
