"""Route: answer a file of items by cache, student or teacher."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.job import job
from tasks.records import Routed
from tasks.routing.steps import route_file


@flow(name="route")
def route(
    project: str, file: Annotated[str, Field(min_length=1)], out: Annotated[str, Field(min_length=1)]
) -> Routed:
    """Answer every item of a file.

    Args:
        project: path of the project file.
        file: parquet, csv or jsonl with the project's id and content columns.
        out: parquet to write, or CSV where it ends in .csv: id, one column a level, tier, confidence.
    """
    with job(project, "route", file=file, out=out) as (settings, run):
        routed = route_file(settings, file, out, run.id)
        run.result["route"] = routed.as_dict()
        if routed.unanswered:
            run.status = "incomplete"
        return routed
