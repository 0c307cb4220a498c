"""Commands around labels: label, import-labels, review."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deployments.output import DONE, INCOMPLETE, Outcome, command, shown


@click.command(name="label")
@click.option("--limit", type=click.IntRange(min=1), help="Ask about at most so many items.")
@click.option("--gold", is_flag=True, help="Also ask about gold items once, to know how good the teacher is.")
@command()
def label_command(project: str, limit: int | None, gold: bool) -> Outcome:
    """Label items with the teacher; a run that leaves items unlabelled exits with 3."""
    from flows.label import label

    record = label(project, limit, gold)
    lines: dict[str, Any] = {
        "asked about": f"{record.items:,}",
        "labelled": f"{record.labelled:,}",
        "disagreed": f"{record.disagreed:,} (await review)",
        "invalid": f"{record.invalid:,}",
        "failed": f"{record.failed:,}",
        "calls": f"{record.calls:,}",
        "cost": f"{record.cost_usd:.4f} USD",
        "review": record.review_file,
    }
    if record.rejected:
        lines["rejected rows"] = ", ".join(f"{reason}: {count}" for reason, count in record.rejected.items())
    if record.errors:
        lines["errors"] = ", ".join(f"{name}: {count}" for name, count in record.errors.items())
    text = shown(lines)
    incomplete = bool(record.unlabelled_left or record.failed or record.stopped)
    if record.stopped:
        text += f"\nstopped: {record.stopped}; everything paid for is kept"
    if record.unlabelled_left:
        text += f"\n{record.unlabelled_left:,} items are left unlabelled; run it again to go on"
    return Outcome(record.as_dict(), text, INCOMPLETE if incomplete else DONE)


@click.command(name="import-labels")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--text-column", help="The column that holds the item; guessed if not given.")
@click.option(
    "--label-column", "label_columns", multiple=True, help="The label, or one column a level (repeat)."
)
@command()
def import_labels_command(
    project: str, file: Path, text_column: str | None, label_columns: tuple[str, ...]
) -> Outcome:
    """Take in FILE (parquet, csv, jsonl of input and label): answers that were paid for long ago."""
    from flows.job import job
    from tasks.labeling.steps import import_history

    with job(project, "import-labels", file=str(file)) as (settings, run):
        record = import_history(settings, file, run.id, text_column, label_columns)
        run.result["import-labels"] = record
    return Outcome(
        record, shown({name: value for name, value in record.items() if value not in (None, {}, [])})
    )


@click.group(name="review")
def review_command() -> None:
    """The review queue: what a person should look at, the most valuable first."""


@review_command.command(name="export")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the CSV.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many rows.")
@command()
def review_export(project: str, out: Path | None, limit: int | None) -> Outcome:
    """Write review_labels.csv; fill in its final_label column."""
    from flows.job import job
    from tasks.labeling.steps import export_review_queue

    with job(project, "review export") as (settings, _):
        place, rows = export_review_queue(settings, out, limit)
    return Outcome({"file": place, "rows": rows}, f"{rows:,} rows to review in {place}")


@review_command.command(name="import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@command()
def review_import(project: str, file: Path) -> Outcome:
    """Take in a reviewed CSV; its labels outrank the teacher for good."""
    from flows.job import job
    from tasks.labeling.steps import import_reviewed

    with job(project, "review import", file=str(file)) as (settings, run):
        record = import_reviewed(settings, file, run.id)
        run.result["review import"] = record
    return Outcome(record, shown(record))
