"""Asking about single items at once, for the router and for gold: the first pass, under the same ledger.

What is known already is taken from the ledger; what is new becomes a label like any other.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl
from sqlalchemy import select

from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import in_batches
from tasks.labeling.consensus import item_states, new_label_rows
from tasks.labeling.dispatch import Progress
from tasks.labeling.ledger import current_answers, missing, read_of
from tasks.labeling.replies import Answer
from tasks.labeling.requests import Item
from tasks.labeling.selection import requests_of
from tasks.labeling.sending import VOTES, ask
from tasks.labeling.sessions import Session
from tasks.store import Store, schema
from tasks.store.labels import append_labels

IN_BATCH = "in_batch"

REPLY_SCHEMA = {
    "key": pl.Binary,
    "label": pl.String,
    "confidence": pl.Float64,
    "error_class": pl.String,
    "cost_usd": pl.Float64,
}


def ask_once(
    store: Store,
    how: Asking,
    contents: pl.DataFrame,
    stage: str,
    passes: int,
    run_id: int,
    budget_usd: float | None = None,
    write_labels: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
    session: Session | None = None,
    can_wait: bool = False,
) -> pl.DataFrame:
    """The first pass for items in hand: what the ledger knows is taken from there, the rest is asked.

    An item that waits for the same answer in an open batch is asked online all the same where somebody wants it now,
    and then paid for twice: the answer that was here first stands, and whoever fetches the batch counts the other
    one (`paid_twice`). Who can wait (a measurement on gold) has it from the batch at a later run.

    Args:
        store: the open database; the items need not be in it.
        how: the teacher.
        contents: key, text, image.
        stage: `route`, `audit` or `gold`, kept with each call.
        passes: how many passes the project wants; the labels written are `single` until they are complete.
        run_id: the job's row in `runs`.
        budget_usd: the most this call may spend.
        write_labels: whether the answers become labels; not where gold is asked to measure the teacher.
        seed: of the back-off.
        progress: called with answers done, answers in all, and the cost so far.
        session: connections to use again; None connects for this alone.
        can_wait: whether items that wait in an open batch are left to it.

    Returns:
        One row a distinct key, in order: key, label, confidence, error_class, cost_usd (of this call). Without
        a label, error_class says why; `teacher_down`, `budget`, `in_batch` and fatal classes mean that it was not
        asked.

    Raises:
        StoreError: the ledger cannot be written.
    """
    how = replace(how, passes=passes)
    items = contents.unique("key", keep="first", maintain_order=True)
    due = missing(items, current_answers(store, how.version, items), 1)
    why_not = "not_asked"
    failures: dict[bytes, tuple[str | None, float]] = {}
    if can_wait:
        waiting = due.join(in_batches(store, how), on=["key", "pass"], how="semi")
        due = due.join(waiting, on=["key", "pass"], how="anti", maintain_order="left")
        failures = dict.fromkeys(waiting["key"].to_list(), (IN_BATCH, 0.0))
    if due.height:

        def remember(item: Item, answer: Answer, cost_usd: float) -> None:
            failures[item.key] = (answer.error_class, cost_usd)

        requests = requests_of(due, how.prompt.modality)
        asked = ask(
            store, how, requests, due, stage, budget_usd, run_id, seed, progress, remember, session=session
        )
        why_not = asked.fatal.error_class if asked.fatal else asked.stopped or why_not
    if write_labels:
        _append_labels_of(store, how, items.select("key"), due.select("key"), passes, run_id)
    answers = current_answers(store, how.version, items).filter(pl.col("pass") == 1)
    told = pl.DataFrame(
        [(key, error_class, cost) for key, (error_class, cost) in failures.items()],
        schema={"key": pl.Binary, "failure": pl.String, "cost_usd": pl.Float64},
        orient="row",
    )
    joined = items.select("key").join(answers, on="key", how="left", maintain_order="left")
    joined = joined.join(told, on="key", how="left", maintain_order="left")
    unlabelled = pl.coalesce("error_class", "failure", pl.lit(why_not))
    return joined.select(
        "key",
        "label",
        "confidence",
        pl.when(pl.col("label").is_null()).then(unlabelled).alias("error_class"),
        pl.col("cost_usd").fill_null(0.0),
    ).cast(REPLY_SCHEMA)  # type: ignore[arg-type]


def _append_labels_of(
    store: Store, how: Asking, keys: pl.DataFrame, asked: pl.DataFrame, passes: int, run_id: int
) -> None:
    """Afterwards what was asked now has its label, and so has what a killed run paid for and made no label of."""
    columns = schema.labels.c
    query = select(columns.id, columns.key, columns.label, columns.source).order_by(columns.id)
    labelled = read_of(store, query, columns.key, keys)
    wanting = pl.concat([asked, keys.join(labelled, on="key", how="anti")]).unique("key")
    if wanting.height:
        states = item_states(current_answers(store, how.version, wanting, VOTES), passes, how.breaks_ties)
        append_labels(store, new_label_rows(states, labelled), run_id)
