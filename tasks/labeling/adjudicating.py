"""The adjudicator decides: a stronger model is asked about single items, and its word outranks the teacher's for good.

It sees the same prompt as the teacher and nothing of what was said before. Under the same ledger, so that nothing is
asked or paid for twice. Which items are worth it is not decided here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import select

from tasks.labeling.asking import Asking, asking, bring_of
from tasks.labeling.dispatch import Asked, Progress
from tasks.labeling.ledger import current_answers, read_of
from tasks.labeling.selection import item_keys, stored_requests
from tasks.labeling.sending import VOTES, ask
from tasks.store import Store, schema
from tasks.store.labels import append_labels, resolve
from tasks.store.moved import as_of_today
from tasks.taxonomy import Taxonomy

if TYPE_CHECKING:
    from tasks.project import Project

STAGE = "adjudicate"

PASS = 11
"""No teacher's pass and no tie-break has this number, so that none of them is mistaken for the adjudicator's word."""


def asking_adjudicator(project: Project, store: Store) -> Asking | None:
    """How a project's adjudicator is asked; None where it has none.

    Raises:
        ConfigError: the taxonomy cannot be read, or the environment holds no key.
    """
    model, task = project.teacher.adjudicator, project.task
    if model is None:
        return None
    assert model.api_key, "a key that is missing is told before anything is paid for"
    own = asking(
        project.taxonomy,
        task.instructions,
        task.modality,
        model,
        project.price_of(model),
        project.labeling.prompt,
    )
    return replace(own, bring=bring_of(project, store))


def decided_labels(store: Store, keys: pl.DataFrame, taxonomy: Taxonomy) -> pl.DataFrame:
    """key, label (a leaf of today) of the items of `keys` that a person or an adjudicator has decided."""
    columns = schema.labels.c
    query = select(columns.id, columns.key, columns.label, columns.source).order_by(columns.id)
    counting = resolve(as_of_today(read_of(store, query, columns.key, keys), taxonomy))
    decided = pl.col("source").is_in(["human", "adjudicated"]) & pl.col("label").is_not_null()
    return counting.filter(decided).select("key", "label")


def ask_adjudicator(
    store: Store,
    how: Asking,
    keys: pl.DataFrame,
    budget_usd: float | None,
    run_id: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Asked:
    """Afterwards each item of `keys` that nobody had decided bears the adjudicator's label, as far as the budget went.

    What the ledger holds already is not asked; an item without a valid answer stays open.

    Args:
        store: the open database.
        how: the adjudicator.
        keys: a column `key`, the first to be asked about first.
        budget_usd: the most that this may spend.
        run_id: the job's row in `runs`.
        seed: of the back-off.
        progress: called with answers done, answers in all, and the cost so far.

    Raises:
        FatalTeacherError: no call can succeed; what was paid for is in the ledger and decided.
        StoreError: the ledger cannot be written.
    """
    known = keys.select("key").join(item_keys(store), on="key", how="inner", maintain_order="left")
    known = known.join(
        decided_labels(store, known, how.prompt.taxonomy), on="key", how="anti", maintain_order="left"
    )
    due = known.select("item_id", "key", pl.lit(PASS, pl.Int64).alias("pass"))
    there = current_answers(store, how.version, due, ("key", "pass"))
    due = due.join(there, on=["key", "pass"], how="anti", maintain_order="left")
    asked = Asked()
    if due.height:
        requests = stored_requests(store, due, how.prompt.modality)
        asked = ask(store, how, requests, due, STAGE, budget_usd, run_id, seed, progress)
    said = current_answers(store, how.version, known, VOTES).filter(pl.col("pass") == PASS)
    said = said.filter(pl.col("label").is_in(list(how.prompt.taxonomy.leaves)))
    append_labels(
        store, ((key, label, "adjudicated") for key, label in said.select("key", "label").iter_rows()), run_id
    )
    if asked.fatal is not None:
        raise asked.fatal
    return asked
