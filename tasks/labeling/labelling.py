"""The labelling job as one function over an open database, and the asking of single items for the router.

Puts the room's parts together: choose, ask, resolve. Everything paid for is in the ledger before a label is
made of it, so a killed run is repaired by the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import polars as pl
from sqlalchemy import select

from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import in_batches
from tasks.labeling.batches import Fetched
from tasks.labeling.budget import Budget
from tasks.labeling.consensus import (
    DIFFERING,
    LABELLED,
    agreement,
    changed_labels,
    item_states,
    new_label_rows,
)
from tasks.labeling.dispatch import Asked, Progress, ask_all
from tasks.labeling.grouping import Grouping
from tasks.labeling.ledger import Ledger, current_answers, missing, read_of
from tasks.labeling.replies import Answer
from tasks.labeling.requests import Item, Request
from tasks.labeling.selection import Acquisition, Chosen, choose, item_keys, requests_of, stored_requests
from tasks.records import Labelled
from tasks.store import Store, schema
from tasks.store.labels import append_labels, raw_labels

LOOKED_AT = 32
VOTES = ("key", "pass", "label")  # of an answer; its reason is long, and would be held for every item
ITEMS_AT_ONCE = 10_000
_FIRST_STAGE = Request((Item(b"", ""),), 1)
DECIDED = ("human", "adjudicated", "imported")
REPLY_SCHEMA = {
    "key": pl.Binary,
    "label": pl.String,
    "confidence": pl.Float64,
    "error_class": pl.String,
    "cost_usd": pl.Float64,
}

Done = TypeVar("Done")


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
    acquisition: Acquisition | None = None,
    send: Send | None = None,
    fetched: Fetched | None = None,
    only: pl.DataFrame | None = None,
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
        acquisition: what to ask first where a limit or the budget may end the run early; None leaves it to the seed.
        send: who sends the requests; None asks online and waits for every reply.
        fetched: what came through batches in this run before, counted with it.
        only: a column `key` to keep to; None is all.

    Returns:
        Counts over the items that this run reached. `unlabelled_left` counts the items it was about (all that
        are not excluded, or those within the limit) that have no label and are not merely disagreed.

    Raises:
        FatalTeacherError: no call can succeed; labels of all that was paid for are written before.
        StoreError: the ledger cannot be written.
    """
    how = replace(how, passes=passes)
    excluded = never_asked(store, gold_keys)
    answers = current_answers(store, how.version, columns=VOTES)
    waiting = in_batches(store, how)
    chosen = choose(
        _items(store, only),
        pl.concat([answers.select("key", "pass"), waiting]),
        excluded,
        passes,
        limit,
        seed,
        acquisition,
        lambda due: _may_run_out(store, how, due, budget_usd),
    )
    asked = Asked()
    if chosen.due.height:
        requests = stored_requests(store, chosen.due, how.prompt.modality)
        asked = _ask(store, how, requests, chosen.due, "label", budget_usd, run_id, seed, progress, send=send)
    answers = current_answers(store, how.version, columns=VOTES)
    due = chosen.due.select("key", "pass")
    if fetched is not None:
        due = pl.concat([fetched.reached, due]).unique(maintain_order=True)
    try:
        ties = how.breaks_ties and asked.stopped is None
        if ties and (tied := _ties(store, answers, passes, chosen.wanted, waiting)).height:
            breaker = how.tie_breaker or how
            requests = stored_requests(store, tied, how.prompt.modality)
            left = None if budget_usd is None else max(0.0, budget_usd - asked.cost_usd)
            asked.add(
                _ask(store, breaker, requests, tied, "tie_break", left, run_id, seed, progress, send=send)
            )
            answers = current_answers(store, how.version, columns=VOTES)
            due = pl.concat([due, tied.select("key", "pass")])
    finally:
        states = item_states(answers, passes, how.breaks_ties)
        _append_labels(store, states, gold_keys, run_id)
    if fetched is not None:
        asked.add(fetched.totals)
    if asked.fatal is not None:
        raise asked.fatal
    found = agreement(answers, passes, how.prompt.taxonomy.levels)
    return replace(
        _labelled(due, chosen, answers, states, asked),
        tie_breaks=due.filter(pl.col("pass") > passes).join(answers, on=["key", "pass"], how="semi").height,
        agreement=found.share,
        kappa=found.kappa,
        agreement_by_level=dict(found.by_level),
        agreement_by_label=dict(found.by_label),
    )


def _items(store: Store, only: pl.DataFrame | None) -> pl.DataFrame:
    items = item_keys(store)
    return items if only is None else items.join(only, on="key", how="semi", maintain_order="left")


def _ties(
    store: Store, answers: pl.DataFrame, passes: int, wanted: pl.DataFrame, waiting: pl.DataFrame
) -> pl.DataFrame:
    """The items (item_id, key, pass) that all passes have answered, not alike, and nobody has cast the last vote on."""
    differing = item_states(answers, passes).filter(pl.col("state").is_in(DIFFERING))
    voted = pl.concat([answers.select("key", "pass"), waiting]).filter(pl.col("pass") == passes + 1)
    tied = differing.join(voted, on="key", how="anti").join(wanted, on="key", how="semi")
    known = item_keys(store).join(tied, on="key", how="semi", maintain_order="left")
    return known.with_columns(pl.lit(passes + 1, pl.Int64).alias("pass"))


def _append_labels(store: Store, states: pl.DataFrame, gold_keys: pl.DataFrame, run_id: int) -> None:
    """Append what changed, some thousand items at a time: a run that is killed in between is repaired by the next.

    Gold may have been asked about to measure the teacher; its answers must never become labels.
    """
    ours = states.join(gold_keys, on="key", how="anti", maintain_order="left")
    changed = changed_labels(ours, raw_labels(store))
    for rows in changed.iter_slices(ITEMS_AT_ONCE):
        append_labels(store, rows.iter_rows(), run_id)


def _may_run_out(store: Store, how: Asking, due: pl.DataFrame, budget_usd: float | None) -> bool:
    """Whether the budget may end a run over these requests, judged by the most that the first ones can cost."""
    if budget_usd is None or not due.height:
        return False
    prompt = how.prompt
    most = max(
        how.price.cost_usd(prompt.most_tokens(request), 0, prompt.most_output_tokens(request))
        for request in stored_requests(store, due.head(LOOKED_AT), prompt.modality)
    )
    return due.height * most > budget_usd


def _labelled(
    due: pl.DataFrame, chosen: Chosen, answers: pl.DataFrame, states: pl.DataFrame, asked: Asked
) -> Labelled:
    failed = pl.DataFrame({"key": list(asked.failed_keys)}, schema={"key": pl.Binary})
    answered_now = due.join(answers, on=["key", "pass"], how="semi").select("key")
    reached = pl.concat([answered_now, failed]).unique()
    counts = dict(states.join(reached, on="key", how="semi").group_by("state").len().iter_rows())
    settled = states.filter(pl.col("state").is_in([*LABELLED, *DIFFERING]))
    return Labelled(
        items=reached.height,
        labelled=sum(counts.get(state, 0) for state in LABELLED),
        disagreed=sum(counts.get(state, 0) for state in DIFFERING),
        partial=counts.get("partial", 0),
        invalid=counts.get("invalid", 0),
        failed=len(asked.failed_keys),
        calls=asked.calls,
        cost_usd=asked.cost_usd,
        unlabelled_left=chosen.wanted.join(settled, on="key", how="anti").height,
        stopped=asked.stopped,
        errors=dict(asked.errors),
        tokens=asked.tokens,
        chosen=dict(
            chosen.why.join(reached, on="key", how="semi").group_by("why").len().sort("why").iter_rows()
        ),
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
    how = replace(how, passes=passes)
    items = contents.unique("key", keep="first", maintain_order=True)
    due = missing(items, current_answers(store, how.version, items), 1)
    why_not = "not_asked"
    failures: dict[bytes, tuple[str | None, float]] = {}
    if due.height:

        def remember(item: Item, answer: Answer, cost_usd: float) -> None:
            failures[item.key] = (answer.error_class, cost_usd)

        requests = requests_of(due, how.prompt.modality)
        asked = _ask(store, how, requests, due, stage, budget_usd, run_id, seed, progress, remember)
        why_not = asked.fatal.error_class if asked.fatal else asked.stopped or why_not
        if write_labels and asked.calls:
            _append_labels_of(store, how, due, passes, run_id)
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


def _append_labels_of(store: Store, how: Asking, keys: pl.DataFrame, passes: int, run_id: int) -> None:
    columns = schema.labels.c
    query = select(columns.id, columns.key, columns.label, columns.source).order_by(columns.id)
    answers = current_answers(store, how.version, keys, VOTES)
    states = item_states(answers, passes, how.breaks_ties)
    append_labels(store, new_label_rows(states, read_of(store, query, columns.key, keys)), run_id)


def never_asked(store: Store, gold_keys: pl.DataFrame) -> pl.DataFrame:
    """A column `key`: gold, and what a person, an adjudicator or history has decided."""
    columns = schema.labels.c
    decided = store.read(select(columns.key).where(columns.source.in_(DECIDED)).distinct())
    return pl.concat([decided, gold_keys.select("key")])


def _ask(
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
) -> Asked:
    if how.bring is not None:
        singles = map(how.bring(due), singles)
    follows = how.prompt.version_of(_FIRST_STAGE) != how.prompt.version
    begun = _reached(store, how, due) if follows else None
    supply = Grouping(singles, how.items_per_call, seed, follows, begun)
    if send is not None:
        return send(store, how, supply, due, stage, budget_usd, run_id)

    async def ask() -> Asked:
        async with (
            aclosing(how.connect()) as teacher,
            Ledger(store, how.version, stage, run_id, sleep=how.sleep) as ledger,
        ):
            budget = Budget(budget_usd)
            return await ask_all(
                supply, due.height, how, teacher, ledger, budget, seed, progress, on_finished
            )

    return run_in_loop(ask())


def _reached(store: Store, how: Asking, due: pl.DataFrame) -> Callable[[bytes, int], str | None]:
    """The branch that an item has come to in a pass, where a run before got that far and no further."""
    version = how.version.under(how.prompt.version_of(_FIRST_STAGE))
    answers = current_answers(store, version, due, VOTES).filter(pl.col("label").is_not_null())
    said = {
        (key, number): label
        for key, number, label in answers.join(due, on=["key", "pass"], how="semi").iter_rows()
    }

    def branch(key: bytes, number: int) -> str | None:
        label = said.get((key, number))
        if label is None:
            return None
        return how.branch_after(replace(_FIRST_STAGE, pass_number=number), Answer(label))

    return branch


def run_in_loop(work: Coroutine[Any, Any, Done]) -> Done:
    """Run a coroutine to its end in an event loop of its own, from any thread, also inside a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
