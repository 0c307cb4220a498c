"""Suspects go back to the teacher: one more pass under the ledger, so that nothing is ever asked or paid for twice.

The answers stay in the ledger and never become raw labels; what they decide is the cleaning's business. Knows the
labelling room's public functions, and no project file.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl
from sqlalchemy import func, select

from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import in_batches, left_of_run
from tasks.labeling.dispatch import Asked, Progress
from tasks.labeling.ledger import current_answers
from tasks.labeling.selection import item_keys, stored_requests
from tasks.labeling.sending import VOTES, ask
from tasks.store import Store, schema

STAGE = "re_ask"


def second_answers(store: Store, how: Asking, passes: int, keys: pl.DataFrame) -> pl.DataFrame:
    """key, label (null: no valid answer) of the items of `keys` that were asked about after their passes."""
    how = replace(how, passes=passes)
    answers = current_answers(store, how.version, keys, VOTES)
    return answers.filter(pl.col("pass") == passes + 1).select("key", "label")


def ask_again(
    store: Store,
    how: Asking,
    passes: int,
    suspects: pl.DataFrame,
    budget_usd: float | None,
    run_id: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Asked:
    """Afterwards each suspect has a second answer in the ledger, as far as the budget went.

    It is the pass after the last one, and asked of the tie-breaker where there is one. What the ledger holds already,
    or waits for in an open batch, is not asked.

    Args:
        store: the open database.
        how: the teacher.
        passes: how many passes the project wants; the second answer is one more.
        suspects: a column `key`, the most contradicted first.
        budget_usd: the most that this may spend.
        run_id: the job's row in `runs`.
        seed: of the back-off.
        progress: called with answers done, answers in all, and the cost so far.

    Raises:
        FatalTeacherError: no call can succeed; what was paid for is in the ledger.
        StoreError: the ledger cannot be written.
    """
    how = replace(how, passes=passes)
    known = suspects.select("key").join(item_keys(store), on="key", how="inner", maintain_order="left")
    due = known.select("item_id", "key", pl.lit(passes + 1, pl.Int64).alias("pass"))
    for there in (current_answers(store, how.version, due, ("key", "pass")), in_batches(store, how)):
        due = due.join(there, on=["key", "pass"], how="anti", maintain_order="left")
    if not due.height:
        return Asked()
    requests = stored_requests(store, due, how.prompt.modality)
    asked = ask(store, how.tie_breaker or how, requests, due, STAGE, budget_usd, run_id, seed, progress)
    if asked.fatal is not None:
        raise asked.fatal
    return asked


def budget_left(store: Store, run_id: int, run_usd: float | None, again_usd: float | None) -> float | None:
    """What a run may still spend on second answers; None is no limit.

    Args:
        store: the open database.
        run_id: the job's row in `runs`.
        run_usd: the budget of the run, for whatever it asks.
        again_usd: the part of it that second answers may take.
    """
    calls, left = schema.calls.c, left_of_run(store, run_id, run_usd)
    if again_usd is None:
        return left
    ours = select(func.sum(calls.cost_usd)).where(calls.run_id == run_id, calls.stage == STAGE)
    again = max(0.0, again_usd - float(store.scalar(ours) or 0.0))
    return again if left is None else min(left, again)
