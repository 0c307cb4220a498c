"""Commands around labels: label, import-labels, review."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from deployments.output import DONE, INCOMPLETE, Outcome, command, shown

if TYPE_CHECKING:
    from tasks.records import Labelled

LEAST_AGREED = 3


@click.command(name="label")
@click.option("--limit", type=click.IntRange(min=1), help="Ask about at most so many items.")
@click.option(
    "--up-to",
    type=click.IntRange(min=1),
    help="Ask until so many items have been asked about in all: the same command again finishes what was begun.",
)
@click.option(
    "--dry-run", is_flag=True, help="Say what it would take (calls, tokens, dollars, minutes); ask nothing."
)
@click.option("--gold", is_flag=True, help="Also ask about gold items once, to know how good the teacher is.")
@click.option("--batch", is_flag=True, help="Ask through the provider's Batch API: cheaper, within a day.")
@click.option(
    "--wait/--no-wait",
    default=True,
    help="With --batch: wait for the answers, or leave; any later `flywheel label` fetches what has ended.",
)
@click.option("--cancel-batches", is_flag=True, help="End open batches, fetch what was done, ask nothing.")
@click.option(
    "--synthesize/--no-synthesize",
    default=None,
    help="Let the teacher write examples for labels with fewer items than labeling.synthesis.below. "
    "[default: where that is set, but not with --limit]",
)
@command()
def label_command(
    project: str,
    limit: int | None,
    up_to: int | None,
    dry_run: bool,
    gold: bool,
    batch: bool,
    wait: bool,
    cancel_batches: bool,
    synthesize: bool | None,
) -> Outcome:
    """Label items with the teacher; a run that leaves items unlabelled exits with 3."""
    from flows.label import label
    from tasks.labeling.remedies import remedy

    batches = _batches(batch, wait, cancel_batches)
    if dry_run:
        return _dry_run(project, limit, up_to)
    record = label(project, limit, gold, synthesize, batches, up_to)
    lines: dict[str, Any] = {
        "asked about": f"{record.items:,}" + _chosen(record.chosen, project),
        "labelled": f"{record.labelled:,}",
        "disagreed": f"{record.disagreed:,} (await review"
        + (f"; of {record.partial:,} the upper levels are kept)" if record.partial else ")"),
        "invalid": f"{record.invalid:,}",
        **_in_all(record),
        "failed": f"{record.failed:,}",
        **_agreement(record),
        "calls": f"{record.calls:,}"
        + (f" ({record.tie_breaks:,} to break ties)" if record.tie_breaks else ""),
        **({"tokens": _tokens(**record.tokens)} if record.calls else {}),
        "cost": f"{record.cost_usd:.4f} USD",
        "review": record.review_file,
    }
    if record.rejected:
        lines["rejected rows"] = ", ".join(f"{reason}: {count}" for reason, count in record.rejected.items())
    if record.gold_rejected:
        counts = (f"{reason}: {count}" for reason, count in record.gold_rejected.items())
        lines["gold rows left out"] = ", ".join(counts)
    if record.lost:
        from tasks.moved import lost_in_words

        lines["labels gone"] = lost_in_words(record.lost)
    if record.errors:
        lines["errors"] = ", ".join(f"{name}: {count}" for name, count in record.errors.items())
    if record.synthesis is not None:
        lines["written examples"] = _synthesis_line(record.synthesis)
    if record.batches is not None:
        lines["batches"] = "{submitted} submitted, {fetched} fetched, {open} open".format(**record.batches)
    text = shown(lines)
    for name in record.errors:
        if todo := remedy(name):
            text += f"\n{name}: {todo}"
    incomplete = bool(record.unlabelled_left or record.failed or record.stopped or record.waiting)
    for problem in record.batches["problems"] if record.batches is not None else ():
        text += f"\n{problem}"
    if record.batches is not None and record.batches["paid_twice"]:
        text += (
            f"\n{record.batches['paid_twice']:,} answers were paid for twice: they were asked online while they "
            "waited in a batch; the first answer stands"
        )
    if record.waiting:
        text += (
            f"\n{record.waiting:,} requests wait in batches; any later `flywheel label` fetches what has ended, "
            "with --batch it waits"
        )
    if record.stopped:
        text += f"\nstopped: {record.stopped}; everything paid for is kept"
    if due := record.unlabelled_left - record.no_answer:
        text += f"\n{due:,} items are left unlabelled; run it again to go on"
    if record.no_answer:
        text += (
            f"\n{record.no_answer:,} items have no valid answer and will not be asked about again under this prompt "
            "and model: decide them in the review file (`flywheel review export`), or change the prompt"
        )
    return Outcome(record.as_dict(), text, INCOMPLETE if incomplete else DONE)


def _agreement(record: Labelled) -> dict[str, str]:
    """How far the passes agree: overall, beyond chance, by level, and on which labels least; a line each."""
    if record.agreement is None:
        return {"agreement": "no item with two passes yet"}
    kappa = "" if record.kappa is None else f", Cohen's kappa {record.kappa:.3f}"
    lines = {"agreement": f"{record.agreement:.1%}{kappa}"}
    if len(record.agreement_by_level) > 1:
        levels = (f"{level} {share:.1%}" for level, share in record.agreement_by_level.items())
        lines["by level"] = ", ".join(levels)
    if record.least_agreed:
        least = record.least_agreed[:LEAST_AGREED]
        lines["least on"] = "; ".join(f"{label} {share:.0%} of {items:,}" for label, share, items in least)
    return lines


def _chosen(counts: Mapping[str, int], project: str) -> str:
    """Why these items, where there was a choice; and what would have made it a better one."""
    from tasks.project import load_project

    if not counts or set(counts) == {"all"}:
        return ""
    text = " (" + ", ".join(f"{why} {count:,}" for why, count in counts.items()) + ")"
    if (
        "random" in counts
        and set(counts) <= {"owed", "random"}
        and load_project(project).labeling.mix.random < 1
    ):
        text += "; `flywheel embed` first lets `labeling.mix` choose"
    return text


def _in_all(record: Labelled) -> dict[str, str]:
    """What there is after this run, where earlier runs asked, too."""
    counts = record.in_all
    asked = sum(counts.values())
    lines = {}
    if asked > record.items:
        lines["in all"] = "{labelled:,} labelled, {disagreed:,} disagreed, {invalid:,} invalid".format(
            **counts
        )
    if record.written > record.items:
        lines["labels written"] = f"{record.written:,} (answers of earlier runs among them)"
    return lines


def _tokens(prompt: int, cached: int, completion: int) -> str:
    return f"{prompt:,} in ({cached:,} cached), {completion:,} out"


def _dry_run(project: str, limit: int | None, up_to: int | None) -> Outcome:
    from flows.job import job
    from tasks.errors import BusyError
    from tasks.labeling.steps import estimate_labelling, items_still_wanted, take_in_items
    from tasks.project import load_project

    rejected: Mapping[str, int] = {}
    note = ""
    try:
        with job(project, "label --dry-run", limit=limit, up_to=up_to) as (settings, run):
            # What would be asked is what stands in the sources now.
            rejected = take_in_items.fn(settings, run.id).rejected
            if up_to is not None:
                limit = min(limit or up_to, items_still_wanted(settings, up_to))
            record = estimate_labelling.fn(settings, run.id, limit)
            run.result["estimate"] = record.as_dict()
    except BusyError as busy:
        # Reading needs no lease: what the other run has taken in and answered so far can be counted.
        settings = load_project(project)
        if up_to is not None:
            limit = min(limit or up_to, items_still_wanted(settings, up_to))
        record = estimate_labelling.fn(settings, 0, limit)
        note = f"\nof the items taken in so far, beside a run that works now: {busy.owner}"
    lines: dict[str, Any] = {
        "items": f"{record.items:,}",
        "calls": f"{record.calls:,}",
        "tokens": _tokens(record.prompt_tokens, record.cached_tokens, record.completion_tokens),
        "cost": f"about {record.cost_usd:,.4f} USD, at most {record.at_most_usd:,.4f}",
        "by --batch": f"about {record.batch_usd:,.4f} USD",
        "minutes": f"about {record.minutes:,.1f}",
        "rests on": record.basis,
    }
    for stage, line in (record.stages or {}).items():
        lines[stage] = f"{line['calls']:,.0f} calls, {line['cost_usd']:,.4f} USD"
    if rejected:
        lines["rejected rows"] = ", ".join(f"{reason}: {count}" for reason, count in rejected.items())
    text = shown(lines) + note
    if not record.fits:
        text += f"\nthe budget of {record.budget_usd:,.4f} USD ends before that; everything paid for would be kept"
    return Outcome(record.as_dict() | {"fits": record.fits, "rejected": rejected}, text)


def _batches(batch: bool, wait: bool, cancel: bool) -> Literal["none", "wait", "submit", "cancel"]:
    if cancel and batch:
        raise click.UsageError("--batch and --cancel-batches exclude each other.")
    if not wait and not batch:
        raise click.UsageError("--no-wait goes with --batch.")
    if cancel:
        return "cancel"
    return "none" if not batch else "wait" if wait else "submit"


def _synthesis_line(said: Mapping[str, Any]) -> str:
    """What came of the examples that the teacher was asked to write, in one line."""
    if not said["starved"]:
        return "none: no label is starved, or nothing changed since they were last asked for"
    dropped = [
        f"{said[why]:,} {why}" for why in ("duplicates", "off_label", "unusable", "surplus") if said[why]
    ]
    line = f"{said['kept']:,} kept of {said['written']:,} for {said['starved']:,} starved labels"
    line += f" ({', '.join(dropped)})" if dropped else ""
    if said["unseen"]:
        line += f"; without any real item: {len(said['unseen']):,} of them, which get only a few"
    return line + f"; {said['cost_usd']:.4f} USD"


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
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "label-studio"]),
    default="csv",
    show_default=True,
    help="A CSV for any spreadsheet, or tasks and configuration for Label Studio.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the file.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many rows.")
@click.option(
    "--image-root",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT: images below it are linked, not embedded.",
)
@command()
def review_export(
    project: str,
    form: Literal["csv", "label-studio"],
    out: Path | None,
    limit: int | None,
    image_root: Path | None,
) -> Outcome:
    """Write review_labels.csv, whose column final_label is to be filled in, or review_tasks.json and .xml."""
    from tasks.labeling.label_studio import MOST_BYTES
    from tasks.labeling.steps import export_for_review
    from tasks.project import load_project

    # Not as a job: it only reads, and who wants to look need not wait for a night's labelling to end.
    record = export_for_review(load_project(project), out, limit, form, image_root)
    text = f"{record.rows:,} rows to review in {record.file}"
    if record.config:
        text += f"\nlabeling configuration (Settings > Labeling Interface > Code) in {record.config}"
    if record.left_out:
        text += f"\n{record.left_out:,} items are left out: their images are gone"
    if record.config and record.bytes > MOST_BYTES:
        text += (
            f"\n{record.bytes / 1e6:,.0f} MB is more than Label Studio takes in one upload by default: "
            "use --limit, or --image-root to link images"
        )
    return Outcome(record.as_dict(), text)


@review_command.command(name="import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@command()
def review_import(project: str, file: Path) -> Outcome:
    """Take in a reviewed CSV or a JSON export of Label Studio; its labels outrank the teacher for good."""
    from flows.job import job
    from tasks.labeling.steps import import_reviewed

    with job(project, "review import", file=str(file)) as (settings, run):
        record = import_reviewed(settings, file, run.id)
        run.result["review import"] = record
    lines = {name: f"{value:,}" for name, value in record.items() if isinstance(value, int)}
    for level, counts in record["overturned"].items():
        if counts["reviewed"]:
            lines[f"overturned at {level}"] = f"{counts['overturned']:,} of {counts['reviewed']:,}"
    text = shown(lines)
    for conflict in record["conflicting"]:
        text += f"\nnot imported, reviewers contradict each other: {conflict}"
    return Outcome(record, text)
