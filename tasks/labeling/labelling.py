"""The labelling job as one function over an open database.

Puts the room's parts together: choose, ask, resolve. Everything paid for is in the ledger before a label is
made of it, so a killed run is repaired by the next.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import polars as pl
from sqlalchemy import select

from tasks.labeling.agreement import agreement
from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import in_batches
from tasks.labeling.batch_collection import Fetched
from tasks.labeling.consensus import DIFFERING, LABELLED, changed_labels, item_states
from tasks.labeling.dispatch import Asked, Progress
from tasks.labeling.ledger import current_answers
from tasks.labeling.selection import Acquisition, Chosen, choose, item_keys, stored_requests
from tasks.labeling.sending import VOTES, Send, ask
from tasks.labeling.shards import in_shards
from tasks.records import Labelled
from tasks.store import Store, schema
from tasks.store.labels import append_labels, raw_labels

LOOKED_AT = 32
ITEMS_AT_ONCE = 10_000

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
    waiting = in_batches(store, how)
    chosen = choose(
        _items(store, only),
        pl.concat([current_answers(store, how.version, columns=("key", "pass")), waiting]),
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
        asked = ask(store, how, requests, chosen.due, "label", budget_usd, run_id, seed, progress, send=send)
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
                ask(store, breaker, requests, tied, "tie_break", left, run_id, seed, progress, send=send)
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
        _labelled(due, chosen, answers, states, passes, asked),
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
    due: pl.DataFrame, chosen: Chosen, answers: pl.DataFrame, states: pl.DataFrame, passes: int, asked: Asked
) -> Labelled:
    failed = pl.DataFrame({"key": list(asked.failed_keys)}, schema={"key": pl.Binary})
    counts: Counter[str] = Counter()
    why: Counter[str] = Counter()
    items = left = tie_breaks = 0
    frames = (due, answers.select("key", "pass"), states, chosen.wanted, chosen.why, failed)
    for asked_for, given, said, wanted, reasons, not_answered in in_shards(*frames):
        now = asked_for.join(given, on=["key", "pass"], how="semi")
        reached = pl.concat([now.select("key"), not_answered]).unique()
        settled = said.filter(pl.col("state").is_in([*LABELLED, *DIFFERING]))
        items += reached.height
        tie_breaks += now.filter(pl.col("pass") > passes).height
        left += wanted.join(settled, on="key", how="anti").height
        counts.update(said.join(reached, on="key", how="semi")["state"].to_list())
        why.update(reasons.join(reached, on="key", how="semi")["why"].to_list())
    return Labelled(
        items=items,
        labelled=sum(counts[state] for state in LABELLED),
        disagreed=sum(counts[state] for state in DIFFERING),
        partial=counts["partial"],
        tie_breaks=tie_breaks,
        invalid=counts["invalid"],
        failed=len(asked.failed_keys),
        calls=asked.calls,
        cost_usd=asked.cost_usd,
        unlabelled_left=left,
        stopped=asked.stopped,
        errors=dict(asked.errors),
        tokens=asked.tokens,
        chosen=dict(sorted(why.items())),
    )


def never_asked(store: Store, gold_keys: pl.DataFrame) -> pl.DataFrame:
    """A column `key`: gold, and what a person, an adjudicator or history has decided."""
    columns = schema.labels.c
    decided = store.read(select(columns.key).where(columns.source.in_(DECIDED)).distinct())
    return pl.concat([decided, gold_keys.select("key")])
