"""What a run did, on its page in the Prefect UI: counts and costs, the comparison of two versions, figures, links.

Links are made here, the words are the rooms' own; a page that cannot be written stops no job.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from tasks.monitoring.run_page import in_a_line, in_markdown
from tasks.project import Project
from tasks.promotion.gate_in_words import comparison
from tasks.records import Promoted

MLFLOW_UI = "FLYWHEEL_MLFLOW_UI"


def publish(project: Project, job: str, done: Mapping[str, Any]) -> None:
    """Afterwards the page of the flow run that is on shows what a job did; without one nothing happens.

    Args:
        project: its settings.
        job: its name.
        done: what it did, a job's record as a dictionary by the job's name.
    """
    if FlowRunContext.get() is None or not done:
        return
    base = mlflow_address(project)
    name = key_of(project, job)
    try:
        create_markdown_artifact(
            in_markdown(done, links(project, done, base)), key=name, description=in_a_line(done) or job
        )
        if isinstance(outcome := done.get("promote"), dict) and outcome["challenger_version"] is not None:
            create_markdown_artifact(
                comparison(Promoted(**outcome)),
                key=f"{name}-comparison",
                description="champion and challenger",
            )
        if base is not None and isinstance(trained := done.get("retrain"), dict):
            for figure in ("escalation", f"confusion-{project.taxonomy.levels[-1]}"):
                where = f"{base}/get-artifact?path={quote(figure)}.png&run_uuid={trained['run_id']}"
                key = f"{name}-{figure.partition('-')[0]}"
                create_image_artifact(where, key=key, description=figure)
    except Exception as error:  # noqa: BLE001 - the job is done, and whatever its page lacks must not make it fail
        get_run_logger().warning("this run's page shows no result: %s: %s", type(error).__name__, error)


def key_of(project: Project, job: str) -> str:
    """What the keys of a job's artifacts begin with; they may hold small letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", f"{project.project}-{job}".lower()).strip("-")


def links(project: Project, done: Mapping[str, Any], base: str | None) -> dict[str, str]:
    """Where to read on: the run and the versions in MLflow (where `base` serves it), the report.

    A browser opens no file of the machine that the job ran on, so where there is a champion the report is kept with
    its run in MLflow, too, and shown there.
    """
    from tasks.promotion.tracking import registry_of

    found: dict[str, str] = {}
    if isinstance(report := done.get("report"), str):
        found["report"] = report
    if base is None:
        return found
    registry = registry_of(project)
    if (
        report
        and (champion := registry.alias("champion"))
        and (shown := registry.show_with(champion, Path(report), "report"))
    ):
        found["report"] = f"{base}/#/{shown}"
    for record in (record for record in done.values() if isinstance(record, Mapping)):
        if run := record.get("run_id"):
            found["MLflow run"] = f"{base}/#/{registry.page_of_run(str(run))}"
        for role in ("model_version", "challenger_version", "champion_version"):
            if version := record.get(role):
                found[f"version {version} in MLflow"] = (
                    f"{base}/#/models/{project.project}/versions/{version}"
                )
    return found


def mlflow_address(project: Project) -> str | None:
    """Where MLflow's UI is: the tracking server itself, or the one that `flywheel up` runs over the same files."""
    address = project.mlflow.tracking_uri or os.environ.get(MLFLOW_UI, "")
    address = re.sub(r"(?<=://)[^/\s]*@", "", address)  # a page is for more people than a password is
    return address.rstrip("/") if address.startswith(("http://", "https://")) else None
