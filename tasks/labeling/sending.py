"""From what is due to what is in the ledger: groups it, and asks online or hands it to whoever sends it.

Chooses nothing and makes no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import polars as pl

from tasks.labeling.asking import Asking
from tasks.labeling.budget import Budget
from tasks.labeling.dispatch import Asked, Progress, ask_all
from tasks.labeling.grouping import Grouping
from tasks.labeling.ledger import Ledger, current_answers
from tasks.labeling.replies import Answer
from tasks.labeling.requests import Item, Request
from tasks.labeling.selection import with_keys
from tasks.labeling.sessions import Session, run_once
from tasks.labeling.teacher import Teacher
from tasks.store import Store

VOTES = ("key", "pass", "label")  # of an answer; its reason is long, and would be held for every item
FIRST_STAGE = Request((Item(b"", ""),), 1)


class Send(Protocol):
    """Whoever sends requests that nobody waits for: their answers are in the ledger when a later run begins."""

    def __call__(
        self,
        store: Store,
        how: Asking,
        supply: Grouping,
        due: pl.DataFrame,
        stage: str,
        budget_usd: float | None,
        run_id: int,
    ) -> Asked:
        """Send what the supply hands out, for the items and passes of `due`; what could not be is in the result."""


def ask(
    store: Store,
    how: Asking,
    singles: Iterator[Request],
    due: pl.DataFrame,
    stage: str,
    budget_usd: float | None,
    run_id: int,
    seed: int,
    progress: Progress | None,
    on_finished: Callable[[Item, Answer, float], None] | None = None,
    send: Send | None = None,
    session: Session | None = None,
) -> Asked:
    """Ask about every item and pass that is due; what was paid for is in the ledger when this returns or raises.

    Args:
        store: the open database.
        how: the model.
        singles: a request an item and pass of `due`, in its order.
        due: item_id or key, and pass.
        stage: kept with each call.
        budget_usd: the most that this may spend.
        run_id: the job's row in `runs`.
        seed: of the groups and of the back-off.
        progress: called with answers done, answers in all, and the cost so far.
        on_finished: called with each item, its answer and what it cost.
        send: who sends the requests instead, and waits for none.
        session: connections to use again; None connects for this alone.

    Raises:
        StoreError: the ledger cannot be written.
    """
    if how.bring is not None:
        singles = map(how.bring(with_keys(store, due)), singles)
    follows = how.prompt.version_of(FIRST_STAGE) != how.prompt.version
    begun = _reached(store, how, with_keys(store, due)) if follows else None
    supply = Grouping(singles, how.items_per_call, seed, follows, begun)
    if send is not None:
        return send(store, how, supply, with_keys(store, due), stage, budget_usd, run_id)

    if session is not None and session.proved:
        how = replace(how, head_start_seconds=0.0)

    async def asking(teacher: Teacher) -> Asked:
        async with Ledger(store, how.version, stage, run_id, sleep=how.sleep) as ledger:
            budget = Budget(budget_usd)
            return await ask_all(
                supply, due.height, how, teacher, ledger, budget, seed, progress, on_finished
            )

    return run_once(how.connect, asking) if session is None else session.run(asking)


def _reached(store: Store, how: Asking, due: pl.DataFrame) -> Callable[[bytes, int], str | None]:
    """The branch that an item has come to in a pass, where a run before got that far and no further."""
    version = how.version.under(how.prompt.version_of(FIRST_STAGE))
    answers = current_answers(store, version, due, VOTES).filter(pl.col("label").is_not_null())
    said = {
        (key, number): label
        for key, number, label in answers.join(due, on=["key", "pass"], how="semi").iter_rows()
    }

    def branch(key: bytes, number: int) -> str | None:
        label = said.get((key, number))
        if label is None:
            return None
        return how.branch_after(replace(FIRST_STAGE, pass_number=number), Answer(label))

    return branch
