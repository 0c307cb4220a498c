"""What a run did, on its page in the Prefect UI: counts and costs, the comparison of two versions, figures, links.

Made of the records that jobs return, whichever they are; a page that cannot be written stops no job.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from tasks.project import Project
from tasks.promotion.gate_in_words import comparison
from tasks.records import Promoted

MLFLOW_UI = "FLYWHEEL_MLFLOW_UI"
LONGEST = 400
MOST_ITEMS = 8


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
    name = f"{project.project}-{job}".replace("_", "-").replace(" ", "-")
    try:
        create_markdown_artifact(in_markdown(done, links(project, done, base)), key=name, description=job)
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
    except (PrefectException, httpx.HTTPError) as error:
        get_run_logger().warning("this run's page shows no result: %s", error)


def in_markdown(done: Mapping[str, Any], linked: Mapping[str, str]) -> str:
    """Tables of what was done, a heading a job, and the links below."""
    lines: list[str] = []
    for job, record in done.items():
        lines += [f"## {_words(job)}", ""]
        rows = list(_rows(record)) if isinstance(record, Mapping) else [("", _value("", record))]
        lines += ["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows), ""]
        for name, table in record.items() if isinstance(record, Mapping) else ():
            lines += _table(name, table)
    lines += [
        f"- [{name}]({place})" if "://" in place else f"- {name}: `{place}`" for name, place in linked.items()
    ]
    return "\n".join(lines)


def links(project: Project, done: Mapping[str, Any], base: str | None) -> dict[str, str]:
    """Where to read on: the run and the versions in MLflow (where `base` serves it), the report's file."""
    from tasks.promotion.tracking import registry_of

    found: dict[str, str] = {}
    if isinstance(report := done.get("report"), str):
        found["report"] = report
    if base is None:
        return found
    for record in (record for record in done.values() if isinstance(record, Mapping)):
        if run := record.get("run_id"):
            found["MLflow run"] = f"{base}/#/{registry_of(project).page_of_run(str(run))}"
        for role in ("model_version", "challenger_version", "champion_version"):
            if version := record.get(role):
                found[f"version {version} in MLflow"] = (
                    f"{base}/#/models/{project.project}/versions/{version}"
                )
    return found


def mlflow_address(project: Project) -> str | None:
    """Where MLflow's UI is: the tracking server itself, or the one that `flywheel up` runs over the same files."""
    address = project.mlflow.tracking_uri or os.environ.get(MLFLOW_UI, "")
    return address.rstrip("/") if address.startswith(("http://", "https://")) else None


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        if value is None or value == [] or value == {} or _is_table(value):
            continue
        if isinstance(value, Mapping):
            plain = {key: part for key, part in value.items() if not isinstance(part, Mapping | list | tuple)}
            yield (
                _words(name),
                ", ".join(
                    f"{_words(key)} {_value(key, part)}" for key, part in plain.items() if part is not None
                ),
            )
        else:
            yield _words(name), _value(name, value)


def _is_table(value: Any) -> bool:
    """Whether each of a mapping's values is a mapping to plain values."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(
            isinstance(row, Mapping)
            and not any(isinstance(cell, Mapping | list | tuple) for cell in row.values())
            for row in value.values()
        )
    )


def _table(name: str, value: Any) -> list[str]:
    if not _is_table(value):
        return []
    columns = list(dict.fromkeys(column for row in value.values() for column in row))
    lines = [f"| {_words(name)} | {' | '.join(map(_words, columns))} |", "|---|" + "---:|" * len(columns)]
    for row, cells in value.items():
        shown = (_value(column, cells.get(column)) for column in columns)
        lines.append(f"| {_cell(str(row))} | {' | '.join(shown)} |")
    return [*lines, ""]


def _words(name: str) -> str:
    return _cell(name.removesuffix("_usd").removesuffix("_seconds").replace("_", " "))


def _value(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if name.endswith("_usd"):
            return f"{value:.4f} USD"
        if name.endswith("seconds"):
            return f"{value:,.1f} s"
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    if isinstance(value, list | tuple):
        more = f" and {len(value) - MOST_ITEMS:,} more" if len(value) > MOST_ITEMS else ""
        return _cell("; ".join(map(str, value[:MOST_ITEMS])) + more)
    return _cell(str(value))


def _cell(text: str) -> str:
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return " ".join(cut.split()).replace("|", "\\|")
