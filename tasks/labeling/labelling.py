"""The labelling job as one function over an open database.

Puts the room's parts together: choose, ask, resolve. Everything paid for is in the ledger before a label is
made of it, so a killed run is repaired by the next.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl
from sqlalchemy import select

from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import in_batches
from tasks.labeling.batch_collection import Fetched
from tasks.labeling.consensus import DIFFERING, LABELLED
from tasks.labeling.dispatch import Asked, Progress
from tasks.labeling.earlier import remember, still_answered
from tasks.labeling.resolving import Resolved, resolve, ties
from tasks.labeling.selection import Acquisition, choose, stored_requests, what_is_due
from tasks.labeling.sending import Send, ask
from tasks.memory import hand_back
from tasks.records import Labelled
from tasks.store import Store, schema
from tasks.store.moved import as_of_today

LOOKED_AT = 32
LEAST_AGREED = 5

DECIDED = ("human", "adjudicated", "imported")


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
    so_far: bool = False,
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
        so_far: whether the run is also about everything that earlier runs asked, so that what is left of it counts.

    Returns:
        Counts over the items that this run reached. `unlabelled_left` counts the items it was about (all that
        are not excluded, or those within the limit) that have no label and are not merely disagreed.

    Raises:
        FatalTeacherError: no call can succeed; labels of all that was paid for are written before.
        StoreError: the ledger cannot be written.
    """
    how, fetched = replace(how, passes=passes), fetched or Fetched()
    remember(store, how.prompt.taxonomy)
    excluded = never_asked(store, gold_keys, how)
    waiting = in_batches(store, how)
    owed = acquisition.owed if acquisition is not None else None
    chosen = choose(
        what_is_due(store, how.version, passes, excluded, waiting, owed, only),
        passes,
        limit,
        seed,
        acquisition,
        lambda due: _may_run_out(store, how, due, budget_usd),
    )
    hand_back()
    asked = Asked()
    if chosen.due.height:
        requests = stored_requests(store, chosen.due, how.prompt.modality)
        asked = ask(store, how, requests, chosen.due, "label", budget_usd, run_id, seed, progress, send=send)
    due = chosen.due
    try:
        if how.breaks_ties and asked.stopped is None:
            tied = ties(store, how.version, passes, chosen.wanted, waiting)
            breaker = how.tie_breaker or how
            requests = stored_requests(store, tied, how.prompt.modality)
            left = None if budget_usd is None else max(0.0, budget_usd - asked.cost_usd)
            due = pl.concat([due, tied])
            if tied.height:
                asked.add(
                    ask(store, breaker, requests, tied, "tie_break", left, run_id, seed, progress, send=send)
                )
    finally:
        failed = asked.failed_keys | fetched.totals.failed_keys
        hand_back()
        done = resolve(
            store,
            how.version,
            passes,
            how.breaks_ties,
            how.prompt.taxonomy.levels,
            due,
            fetched.reached,
            chosen,
            failed,
            gold_keys,
            run_id,
            excluded if so_far else None,
        )
    asked.add(fetched.totals)
    if asked.fatal is not None:
        raise asked.fatal
    return _labelled(done, asked)


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


def _labelled(done: Resolved, asked: Asked) -> Labelled:
    found = done.agreement
    return Labelled(
        items=done.items,
        labelled=sum(done.states[state] for state in LABELLED),
        disagreed=sum(done.states[state] for state in DIFFERING),
        partial=done.states["partial"],
        tie_breaks=done.tie_breaks,
        invalid=done.states["invalid"],
        failed=len(asked.failed_keys),
        calls=asked.calls,
        cost_usd=asked.cost_usd,
        unlabelled_left=done.left,
        no_answer=done.no_answer,
        written=done.written,
        in_all={
            "labelled": sum(done.in_all[state] for state in LABELLED),
            "disagreed": sum(done.in_all[state] for state in DIFFERING),
            "invalid": done.in_all["invalid"],
        },
        agreement=found.share,
        kappa=found.kappa,
        agreement_by_level=dict(found.by_level),
        agreement_by_label=dict(found.by_label),
        least_agreed=found.least(LEAST_AGREED),
        stopped=asked.stopped,
        errors=dict(asked.errors),
        tokens=asked.tokens,
        chosen=dict(sorted(done.why.items())),
    )


def never_asked(store: Store, gold_keys: pl.DataFrame, how: Asking | None = None) -> pl.DataFrame:
    """A column `key`: gold, and what a person, an adjudicator or history has decided.

    Under the taxonomy of `how` a decision for a label that is gone or split is none any more, and what was answered
    under an earlier taxonomy may still hold.
    """
    columns = schema.labels.c
    decided = store.read(select(columns.key).where(columns.source.in_(DECIDED)).distinct())
    known = [decided, gold_keys.select("key")]
    if how is not None:
        taxonomy = how.prompt.taxonomy
        borne = store.read(select(columns.label).where(columns.source.in_(DECIDED)).distinct())["label"]
        if not all(map(taxonomy.today, borne.to_list())):
            rows = select(columns.id, columns.key, columns.label, columns.source)
            standing = as_of_today(store.read(rows.where(columns.source.in_(DECIDED))), taxonomy)
            known[0] = decided.join(standing, on="key", how="semi")
        known.append(still_answered(store, how))
    return pl.concat(known)
