"""The Prefect steps of labelling: take in new items, ask the teacher, write the review queue; import and review.

The router asks single shards through `ask_teacher`, under the same ledger.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import func, select

from tasks.errors import ConfigError, TrainingError
from tasks.memory import hand_back
from tasks.pieces import items_in_pieces
from tasks.project import Project
from tasks.records import Ingested, Labelled, Synthesized, hash_of
from tasks.retries import AGAIN
from tasks.routing.cascade import TeacherAnswer
from tasks.sources import (
    Rejection,
    expand,
    is_sql,
    iterate_sources,
    read_gold,
    read_gold_rows,
)
from tasks.store import Store, open_store, schema
from tasks.store.items import (
    KnownKeys,
    append_items,
    note_source,
    read_contents,
    rejected_before,
    source_unchanged,
)
from tasks.store.labels import newest_label_id
from tasks.store.moved import lost_labels
from tasks.store.synthetic import remember_state, remembered_state
from tasks.store.traffic import audits, owed_keys
from tasks.synthetic import SYNTHETIC

if TYPE_CHECKING:
    from tasks.labeling.acquisition import Sight
    from tasks.labeling.estimate import Estimate
    from tasks.labeling.review import Exported
    from tasks.labeling.selection import Acquisition
    from tasks.labeling.sessions import Session
    from tasks.student.package import Student

TAKEN_AT_ONCE = {
    "text": 8192,
    "image": 256,
}  # rows of a source, which take ten times the memory while they are read


@task(name="take in items", cache_policy=NO_CACHE, **AGAIN)
def take_in_items(project: Project, run_id: int) -> Ingested:
    """Afterwards every item of the sources is in the database once; files unchanged since are not read again.

    What was rejected of them is told again all the same, as long as it stands there. Of a file that is refused
    nothing is kept.
    """
    store = open_store(project.database_url, project.project)
    settings = _settings_hash(project.source.id or "", project.content_column, project.task.modality)
    rows = new = 0
    rejections: list[Rejection] = []
    rejected: Counter[str] = Counter()
    sources: Iterable[tuple[Path, pl.DataFrame | None]]
    if is_sql(project.source.items):
        sources = iterate_sources(project, project.source.items, project.source.query)
    else:
        files = expand(project.source.items, project.file.parent)
        unchanged = {
            file
            for file in files
            if not file.is_dir()
            and source_unchanged(store, str(file), file.stat().st_size, file.stat().st_mtime, settings)
        }
        for file in unchanged:
            rejected.update(rejected_before(store, file, settings))
        sources = [(file, None) for file in files if file not in unchanged]
    known = KnownKeys(store)
    for file, table in sources:
        read, counts = 0, Counter[str]()
        for items in items_in_pieces(project, file, TAKEN_AT_ONCE[project.task.modality], table):
            read += items.frame.height + len(items.rejections)
            counts.update(rejection.reason for rejection in items.rejections)
            rejections += items.rejections
            new += append_items(store, items.frame, "source", run_id, known)
        rows += read
        rejected.update(counts)
        if file.is_file():
            stat = file.stat()
            rejected_before(store, file, settings, counts)
            note_source(store, str(file), stat.st_size, stat.st_mtime, read, settings)
    write_rejections(project.root / "rejected" / f"items-run-{run_id}.csv", rejections)
    hand_back()
    return Ingested(rows, new, dict(rejected))


@task(name="ask the teacher", cache_policy=NO_CACHE, **AGAIN)
def label_with_teacher(
    project: Project,
    run_id: int,
    limit: int | None = None,
    gold: bool = False,
    batches: Literal["none", "wait", "submit", "cancel"] = "none",
    so_far: bool = False,
) -> Labelled:
    """Afterwards all that was chosen is answered in every pass or counted as left, and labels are resolved.

    Batches that have ended are fetched first; see `label_in_batches` for what becomes of the rest. With `so_far` what
    earlier runs asked about without getting a label counts as left, too.
    """
    from tasks.labeling.asking import asking_teacher, bring_of
    from tasks.labeling.batch_book import left_of_run
    from tasks.labeling.batch_collection import Fetched
    from tasks.labeling.batch_labelling import BatchSender, label_in_batches
    from tasks.labeling.batch_submission import Terms
    from tasks.labeling.labelling import label_items
    from tasks.labeling.once import ask_once

    store = open_store(project.database_url, project.project)
    how = asking_teacher(project, bring_of(project, store))
    if (breaker := project.teacher.tie_breaker) is not None:
        assert breaker.api_key, "a key that is missing is told before anything is paid for"
    gold_rows = read_gold_rows(project)
    write_rejections(project.root / "rejected" / f"gold-run-{run_id}.csv", gold_rows.rejections)
    known_gold = gold_rows.frame
    never = pl.concat([known_gold.select("key"), _answered_without_the_teacher(store)])
    limit = limit if limit is not None else project.labeling.limit
    lost = lost_labels(store, project.taxonomy)

    def one_round(send: BatchSender | None, fetched: Fetched, only: pl.DataFrame | None) -> Labelled:
        return label_items(
            store,
            how,
            project.teacher.passes,
            left_of_run(store, run_id, project.teacher.budget_usd),
            never,
            run_id,
            limit if only is None else None,
            progress=_progress("labelling"),
            acquisition=_acquisition(project, store),
            send=send,
            fetched=fetched,
            only=only,
            so_far=so_far,
        )

    terms = project.teacher.batch
    labelled = label_in_batches(
        store,
        how,
        batches,
        one_round,
        limit is not None,
        Terms(terms.window, terms.most_requests, terms.most_bytes),
        terms.poll_seconds,
        _progress("waiting for batches"),
    )
    labelled = replace(labelled, gold_rejected=gold_rows.rejected, lost=lost)
    if gold and known_gold.height and labelled.stopped is None:
        left = left_of_run(store, run_id, project.teacher.budget_usd)
        said = ask_once(store, how, known_gold, "gold", 1, run_id, left, write_labels=False, can_wait=True)
        cost = float(said["cost_usd"].sum())
        calls = _calls_of(store, run_id, "gold")
        labelled = replace(
            labelled, cost_usd=round(labelled.cost_usd + cost, 9), calls=labelled.calls + calls
        )
    return labelled


@task(name="estimate the labelling", cache_policy=NO_CACHE, **AGAIN)
def estimate_labelling(project: Project, run_id: int, limit: int | None = None) -> Estimate:
    """What labelling now would take; nothing is asked and nothing is written."""
    from tasks.labeling.asking import asking_teacher
    from tasks.labeling.batch_book import left_of_run
    from tasks.labeling.beside import examples_there_are
    from tasks.labeling.estimate import estimate
    from tasks.labeling.labelling import never_asked
    from tasks.labeling.planning import legs_of

    store = open_store(project.database_url, project.project)
    gold = read_gold(project)
    never = pl.concat([gold.select("key"), _answered_without_the_teacher(store)])
    decided: list[tuple[str, str]] = []
    if project.labeling.prompt.examples:
        decided = examples_there_are(store, project.taxonomy, gold, project.routing.audit_window_days)
    limit = limit if limit is not None else project.labeling.limit
    how, passes = asking_teacher(project), project.teacher.passes
    excluded = never_asked(store, never, how)
    legs, items = legs_of(store, how, passes, excluded, limit, decided=decided)
    return estimate(store, legs, items, left_of_run(store, run_id, project.teacher.budget_usd))


def items_still_wanted(project: Project, up_to: int) -> int:
    """How many more items to ask about so that `up_to` are asked about in all; those begun are still to finish."""
    from tasks.labeling.asking import asking_teacher
    from tasks.labeling.batch_book import in_batches
    from tasks.labeling.earlier import still_answered
    from tasks.labeling.ledger import current_answers

    store, how = open_store(project.database_url, project.project), asking_teacher(project)
    how = replace(how, passes=project.teacher.passes)
    answers = current_answers(store, how.version, columns=("key", "pass"))
    answers = pl.concat([answers, in_batches(store, how)]).unique()
    answers = answers.filter(pl.col("pass") <= project.teacher.passes)
    asked = answers.group_by("key").len().filter(pl.col("len") >= project.teacher.passes)
    whole = pl.concat([asked.select("key"), still_answered(store, how)]).unique()
    return max(0, up_to - whole.join(read_gold(project).select("key"), on="key", how="anti").height)


def wants_synthesis(project: Project, asked: bool | None, limit: int | None) -> bool:
    """Whether a labelling run also writes examples for starved labels.

    It does where the project says below how many real items a label is starved, but not in a run with a limit of
    its own, in which most labels look starved; `asked` overrules both.

    Raises:
        ConfigError: examples are wanted of images, or it is not said for which labels.
    """
    below = project.labeling.synthesis.below
    if asked and below is None:
        remedy = "Set it to the number of real items below which a label is starved, say 20."
        raise ConfigError(
            project.file, "is not set, so no label is starved", remedy, "labeling.synthesis.below"
        )
    if below is not None and project.task.modality != "text":
        remedy = "Take it out: only texts can be written."
        raise ConfigError(
            project.file, "is for texts, the items are images", remedy, "labeling.synthesis.below"
        )
    return below is not None and (limit is None if asked is None else asked)


@task(name="write examples for starved labels", cache_policy=NO_CACHE, **AGAIN)
def write_synthetic_examples(project: Project, run_id: int, again: bool = False) -> Synthesized:
    """Afterwards starved labels have synthetic examples within their share, or the teacher was asked for them.

    Where nothing changed since a run that asked for all, nothing is asked, unless `again`.
    """
    from tasks.embedding.encoders import load_encoder
    from tasks.embedding.vectors import encoder_settings, vectors_of
    from tasks.labeling.asking import asking
    from tasks.labeling.batch_book import left_of_run
    from tasks.labeling.screening import Screen
    from tasks.labeling.starved import reference_rows, starved_labels
    from tasks.labeling.synthesis import standing, write_examples
    from tasks.labeling.writer import as_writer
    from tasks.student.snapshot import DISPUTED
    from tasks.student.training_view import training_view

    store, taxonomy = open_store(project.database_url, project.project), project.taxonomy
    synthesis = project.labeling.synthesis
    assert synthesis.below is not None, "see wants_synthesis"
    gold = read_gold(project)
    if not again and remembered_state(store) == _synthesis_state(project, store, gold):
        return Synthesized()
    view = training_view(project, store, gold).frame
    real = view.filter(~pl.col("source").is_in([SYNTHETIC, DISPUTED]))
    counts = dict(real.group_by("label").len().iter_rows())
    written = dict(view.filter(pl.col("source") == SYNTHETIC).group_by("label").len().iter_rows())
    starved = starved_labels(taxonomy, counts, written, synthesis.below, synthesis.most_share)
    result = standing(starved)
    if any(label.wanted for label in starved):
        contents = read_contents(store)
        watched = audits(store, project.routing.audit_window_days, misses_only=True).select("key")
        others = pl.concat([view.select("key"), watched])
        rows = reference_rows(real, others, contents, gold)
        encoder = encoder_settings(project.encoder)
        encode = load_encoder(encoder).encode  # before anything is paid for
        known = pl.concat([contents.select("key"), gold.select("key")])
        no_images = rows.with_columns(image=pl.lit(None, pl.Binary))
        vectors = vectors_of(encoder, project.cache_root, no_images, "text")
        screen = Screen(known, rows["text"].to_list(), vectors, rows["label"].to_list(), encode)
        texts = rows.drop_nulls("label").group_by("label", maintain_order=True).agg("text")
        price = project.price_of(project.teacher)
        result = write_examples(
            store,
            asking(taxonomy, project.task.instructions, "text", as_writer(project.teacher), price),
            taxonomy,
            project.task.instructions,
            project.teacher.structured,
            starved,
            dict(texts.iter_rows()),
            screen,
            left_of_run(store, run_id, project.teacher.budget_usd),
            run_id,
            seed=run_id,
            progress=_progress("writing examples"),
        )
    if result.stopped is None:
        remember_state(store, _synthesis_state(project, store, gold))
    return result


@task(name="write the review queue", cache_policy=NO_CACHE, **AGAIN)
def write_review_queue(project: Project) -> str:
    """Afterwards `review_labels.csv` holds what a person should look at, the most valuable first."""
    return export_review_queue(project)[0]


def export_review_queue(
    project: Project, out: Path | None = None, limit: int | None = None
) -> tuple[str, int]:
    """Write the review queue; returns where it lies and how many rows it has."""
    exported = export_for_review(project, out, limit)
    return exported.file, exported.rows


def export_for_review(
    project: Project,
    out: Path | None = None,
    limit: int | None = None,
    form: Literal["csv", "label-studio"] = "csv",
    image_root: Path | None = None,
) -> Exported:
    """Write the review queue as a CSV or as tasks for Label Studio."""
    from tasks.labeling.adjudication_queue import wanted_for_review
    from tasks.labeling.contradictions import confident_contradictions
    from tasks.labeling.review import export_review

    store = open_store(project.database_url, project.project)
    name = "review_labels.csv" if form == "csv" else "review_tasks.json"
    return export_review(
        store,
        out or project.root / "review" / name,
        project.taxonomy,
        project.teacher.passes,
        confident_contradictions(project.root),
        read_gold(project).select("key"),
        limit,
        form=form,
        modality=project.task.modality,
        instructions=project.task.instructions,
        image_root=image_root,
        wanted=wanted_for_review(project.root),
    )


def import_reviewed(project: Project, file: Path, run_id: int) -> dict[str, Any]:
    """Take in a reviewed CSV or an export of Label Studio; people's labels outrank the teacher for good."""
    from tasks.labeling.review import import_review

    store = open_store(project.database_url, project.project)
    return import_review(store, file, project.taxonomy, run_id).as_dict()


def import_history(
    project: Project, file: Path, run_id: int, text_column: str | None, label_columns: Sequence[str]
) -> dict[str, Any]:
    """Take in labels that an LLM gave before there was a flywheel."""
    from tasks.labeling.history import import_labels

    store = open_store(project.database_url, project.project)
    rejected = project.root / "rejected" / f"import-run-{run_id}.csv"
    record = import_labels(
        store,
        file,
        project.taxonomy,
        run_id,
        rejected,
        text_column or project.source.text,
        label_columns,
        None,
    )
    return record.as_dict()


def teacher_session(project: Project) -> Session:
    """Connections to the teacher that are kept from one shard to the next; nothing is connected yet."""
    from tasks.labeling.asking import asking_teacher
    from tasks.labeling.sessions import Session

    return Session(asking_teacher(project).connect)


def ask_teacher(
    project: Project,
    store: Store,
    keys: list[bytes],
    stage: str,
    run_id: int,
    session: Session | None = None,
) -> dict[bytes, TeacherAnswer]:
    """The teacher's first-pass answers about stored items, asked once and kept in the ledger."""
    from tasks.labeling.asking import asking_teacher, bring_of
    from tasks.labeling.batch_book import left_of_run
    from tasks.labeling.once import ask_once

    how = asking_teacher(project, bring_of(project, store))
    contents = read_contents(store, pl.DataFrame({"key": keys}, schema={"key": pl.Binary}))
    left = left_of_run(store, run_id, project.teacher.budget_usd)
    said = ask_once(store, how, contents, stage, project.teacher.passes, run_id, left, session=session)
    return {
        row["key"]: TeacherAnswer(row["label"], row["cost_usd"], error_class=row["error_class"])
        for row in said.iter_rows(named=True)
    }


def _calls_of(store: Store, run_id: int, stage: str) -> int:
    calls = schema.calls.c
    counted = select(func.count()).where(calls.run_id == run_id).where(calls.stage == stage)
    return int(store.scalar(counted) or 0)


def _acquisition(project: Project, store: Store) -> Acquisition:
    """What to ask first; embeddings and the current student are read when the order turns out to matter."""
    from tasks.embedding.vectors import encoder_settings
    from tasks.labeling.selection import Acquisition, item_keys
    from tasks.labeling.sight import look

    def seen(items: pl.DataFrame) -> Sight | None:
        columns = schema.labels.c
        labelled = store.read(select(columns.key).where(columns.source != SYNTHETIC).distinct())
        encoder = encoder_settings(project.encoder)
        keys = items.join(item_keys(store), on="item_id", maintain_order="left").select("key")
        return look(keys, labelled, project.cache_root, encoder, lambda: _current_student(project, store))

    return Acquisition(project.labeling.mix.model_dump(), owed_keys(store), seen)


def _current_student(project: Project, store: Store) -> Student | None:
    """The champion, else the challenger; None where there is none or its files are gone, which labelling survives."""
    if store.scalar(select(func.max(schema.policies.c.id))) is None:
        return None  # every version that was ever registered brought a policy; so mlflow need not be imported
    from tasks.promotion.tracking import registry_of

    registry = registry_of(project)
    version = registry.alias("champion") or registry.alias("challenger")
    try:
        return registry.load(version) if version else None
    except TrainingError:
        return None


def _settings_hash(*settings: str) -> str:
    return hashlib.blake2b("\0".join(settings).encode(), digest_size=16).hexdigest()


def _synthesis_state(project: Project, store: Store, gold: pl.DataFrame) -> str:
    """All that decides which labels are starved and what would be asked for them, as one hash."""
    judged = hash_of(sorted(zip(gold["key"].to_list(), gold["label"].to_list(), strict=True)))
    settings = (project.labeling.synthesis, project.teacher, project.encoder)
    said = [section.model_dump_json() for section in settings]
    task = (project.taxonomy.version, project.task.instructions)
    return _settings_hash(str(newest_label_id(store)), judged, *task, *said)


def write_rejections(file: Path, rejections: Sequence[Rejection]) -> None:
    """Keep rejected rows with their reason beside the project's data."""
    if not rejections:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "row", "id", "reason"])
        writer.writerows((r.file, r.row, r.id, r.reason) for r in rejections)


def _answered_without_the_teacher(store: Store) -> pl.DataFrame:
    """Traffic that a cache or the student answered: it is not labelling work, or the wheel would save nothing."""
    items, answers = schema.items.c, schema.answers.c
    traffic = store.read(select(items.key).where(items.origin == "traffic"))
    if not traffic.height:
        return traffic
    asked = store.read(select(answers.key).where(answers["pass"] == 1).distinct())
    return traffic.join(asked, on="key", how="anti").join(owed_keys(store), on="key", how="anti")


def _progress(what: str) -> Any:
    from tasks.monitoring.progress import progress_of

    return progress_of(what)
