"""The labelling job as one function over an open database, and the asking of single items for the router.

Puts the room's parts together: choose, ask, resolve. Everything paid for is in the ledger before a label is
made of it, so a killed run is repaired by the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import polars as pl
from sqlalchemy import select

from tasks.labeling.asking import Asking
from tasks.labeling.budget import Budget
from tasks.labeling.consensus import agreement, item_states, new_label_rows
from tasks.labeling.dispatch import Asked, Progress, ask_all
from tasks.labeling.ledger import Ledger, Version, current_answers, missing, read_of
from tasks.labeling.replies import Answer
from tasks.labeling.requests import Item, Request
from tasks.labeling.selection import choose, item_keys, requests_of, stored_requests
from tasks.records import Labelled
from tasks.store import Store, schema
from tasks.store.labels import append_labels, raw_labels
from tasks.taxonomy import Taxonomy

DECIDED = ("human", "adjudicated", "imported")
REPLY_SCHEMA = {
    "key": pl.Binary,
    "label": pl.String,
    "confidence": pl.Float64,
    "error_class": pl.String,
    "cost_usd": pl.Float64,
}


def label_items(
    store: Store,
    how: Asking,
    passes: int,
    budget_usd: float | None,
    gold_keys: pl.DataFrame,
    run_id: int,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Labelled:
    """Ask what is not yet answered, and append the labels that the answers amount to.

    Args:
        store: the open database.
        how: the teacher.
        passes: independent passes an item.
        budget_usd: the most this run may spend.
        gold_keys: a column `key`; gold is never asked about here.
        run_id: the job's row in `runs`.
        limit: at most so many items.
        seed: of the order and of the back-off.
        progress: called with requests done, requests in all, and the cost so far.

    Returns:
        Counts over the items that this run reached. `unlabelled_left` counts the items it was about (all that
        are not excluded, or those within the limit) that have no label and are not merely disagreed.

    Raises:
        FatalTeacherError: no call can succeed; labels of all that was paid for are written before.
        StoreError: the ledger cannot be written.
    """
    answers = current_answers(store, how.version)
    excluded = pl.concat([_decided(store), gold_keys.select("key")])
    chosen = choose(item_keys(store), answers, excluded, passes, limit, seed)
    asked = Asked()
    if chosen.due.height:
        requests = stored_requests(store, chosen.due, how.prompt.modality)
        asked = _ask(
            store, how, requests, chosen.due.height, "label", budget_usd, run_id, seed, progress, None
        )
        answers = current_answers(store, how.version)
    # Gold may have been asked about to measure the teacher; its answers must never become labels.
    states = item_states(answers, passes).join(gold_keys, on="key", how="anti", maintain_order="left")
    append_labels(store, new_label_rows(states, raw_labels(store)), run_id)
    if asked.fatal is not None:
        raise asked.fatal
    return _labelled(chosen.due, chosen.wanted, answers, passes, asked, how.prompt.taxonomy)


def _labelled(
    due: pl.DataFrame,
    wanted: pl.DataFrame,
    answers: pl.DataFrame,
    passes: int,
    asked: Asked,
    taxonomy: Taxonomy,
) -> Labelled:
    states = item_states(answers, passes)
    failed = pl.DataFrame({"key": list(asked.failed_keys)}, schema={"key": pl.Binary})
    answered_now = due.join(answers, on=["key", "pass"], how="semi").select("key")
    reached = pl.concat([answered_now, failed]).unique()
    counts = dict(states.join(reached, on="key", how="semi").group_by("state").len().iter_rows())
    settled = states.filter(pl.col("state").is_in(["consensus", "single", "disagreed"]))
    return Labelled(
        items=reached.height,
        labelled=counts.get("consensus", 0) + counts.get("single", 0),
        disagreed=counts.get("disagreed", 0),
        invalid=counts.get("invalid", 0),
        failed=len(asked.failed_keys),
        calls=asked.calls,
        cost_usd=asked.cost_usd,
        unlabelled_left=wanted.join(settled, on="key", how="anti").height,
        agreement=agreement(answers, passes, taxonomy.levels).share,
        stopped=asked.stopped,
        errors=dict(asked.errors),
        tokens=asked.tokens,
    )


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
) -> pl.DataFrame:
    """The first pass for items in hand: what the ledger knows is taken from there, the rest is asked.

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
        progress: called with requests done, requests in all, and the cost so far.

    Returns:
        One row a distinct key, in order: key, label, confidence, error_class, cost_usd (of this call). Without
        a label, error_class says why; `teacher_down`, `budget` and fatal classes mean that it was not asked.

    Raises:
        StoreError: the ledger cannot be written.
    """
    items = contents.unique("key", keep="first", maintain_order=True)
    due = missing(items, current_answers(store, how.version, items), 1)
    why_not = "not_asked"
    failures: dict[bytes, tuple[str | None, float]] = {}
    if due.height:

        def remember(item: Item, answer: Answer, cost_usd: float) -> None:
            failures[item.key] = (answer.error_class, cost_usd)

        requests = requests_of(due, how.prompt.modality)
        asked = _ask(store, how, requests, due.height, stage, budget_usd, run_id, seed, progress, remember)
        why_not = asked.fatal.error_class if asked.fatal else asked.stopped or why_not
        if write_labels and asked.calls:
            _append_labels_of(store, how.version, due, passes, run_id)
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


def _append_labels_of(store: Store, version: Version, keys: pl.DataFrame, passes: int, run_id: int) -> None:
    columns = schema.labels.c
    query = select(columns.id, columns.key, columns.label, columns.source).order_by(columns.id)
    states = item_states(current_answers(store, version, keys), passes)
    append_labels(store, new_label_rows(states, read_of(store, query, columns.key, keys)), run_id)


def _decided(store: Store) -> pl.DataFrame:
    columns = schema.labels.c
    return store.read(select(columns.key).where(columns.source.in_(DECIDED)).distinct())


def _ask(
    store: Store,
    how: Asking,
    requests: Iterator[Request],
    total: int,
    stage: str,
    budget_usd: float | None,
    run_id: int,
    seed: int,
    progress: Progress | None,
    on_finished: Callable[[Item, Answer, float], None] | None,
) -> Asked:
    async def ask() -> Asked:
        async with (
            aclosing(how.connect()) as teacher,
            Ledger(store, how.version, stage, run_id, sleep=how.sleep) as ledger,
        ):
            return await ask_all(
                requests,
                total,
                how.prompt,
                teacher,
                ledger,
                Budget(budget_usd),
                how.price,
                how.concurrency,
                how.max_attempts,
                seed,
                progress,
                how.clock,
                how.sleep,
                on_finished,
            )

    return run_in_loop(ask())


def run_in_loop(work: Coroutine[Any, Any, Asked]) -> Asked:
    """Run a coroutine to its end in an event loop of its own, from any thread, also inside a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
