"""Labelling through batches, round after round: submit what is due, wait, fetch, and what follows from that again.

A round carries whatever is due then: first passes, second stages, tie-breaks, and what failed or expired before.
How items are chosen and answers become labels is the labelling job's own business.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import polars as pl

from tasks.labeling import batch_book as book
from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import Batch
from tasks.labeling.batch_client import Sleep
from tasks.labeling.batch_collection import Fetched
from tasks.labeling.batch_submission import Submitted, Terms, submit
from tasks.labeling.batches import POLL_SECONDS, cancel, fetch
from tasks.labeling.dispatch import Asked, Progress
from tasks.labeling.grouping import LAST_STAGE, Grouping
from tasks.labeling.requests import Request
from tasks.labeling.sessions import run_in_loop
from tasks.records import Labelled
from tasks.store import Store

ROUNDS_IN_VAIN = 3  # in which every line failed, before a run gives up
# Where money is what limits a round, fewer requests are not worth another wait of up to a day.
LEAST_REQUESTS, LEAST_SHARE = 10, 0.1  # the share is of the largest round before


class BatchSender:
    """Sends the requests of one round as batches: the `send` of `label_items`.

    `keys` are the items that it was to ask about, `submitted` is what it did; a `closed` one sends nothing.
    """

    def __init__(self, terms: Terms, closed: bool = False) -> None:
        self._terms, self.closed = terms, closed
        self.submitted = Submitted()
        self.keys: set[bytes] = set()

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
        """Submit what the supply hands out; the replies come later."""
        self.keys.update(due["key"])
        if self.closed:
            return Asked()
        left = None if budget_usd is None else max(0.0, budget_usd - self.submitted.reserved_usd)
        requests = _requests(supply, book.better_alone(store) if how.items_per_call > 1 else set())
        done = run_in_loop(submit(store, how, requests, stage, run_id, left, self._terms))
        self.submitted.batches += done.batches
        self.submitted.requests += done.requests
        self.submitted.reserved_usd += done.reserved_usd
        self.submitted.buried |= done.buried
        self.submitted.asked.add(replace(done.asked, stopped=None, fatal=None))
        return done.asked


def _requests(supply: Grouping, alone: set[tuple[bytes, int]]) -> Iterator[Request]:
    """All that is ready in this round; what failed in company is asked about alone."""
    while (request := supply.take()) is not None:
        number, branch = request.pass_number, request.branch
        apart = [item for item in request.items if (item.key, number) in alone]
        together = tuple(item for item in request.items if (item.key, number) not in alone)
        for items in ((item,) for item in apart):
            yield Request(items, number, branch)
        if together:
            yield Request(together, number, branch)
        for item in request.items:
            supply.follow(item, number, None)  # what follows is for another round


Mode = Literal["none", "wait", "submit", "cancel"]
Round = Callable[[BatchSender | None, Fetched, pl.DataFrame | None], Labelled]


def label_in_batches(
    store: Store,
    how: Asking,
    mode: Mode,
    label: Round,
    limited: bool = False,
    terms: Terms | None = None,
    poll_seconds: float = POLL_SECONDS,
    progress: Progress | None = None,
    sleep: Sleep = asyncio.sleep,
) -> Labelled:
    """Label beside the batches there are, or through new ones.

    Args:
        store: the open database.
        how: the teacher.
        mode: `none` fetches what has ended and asks the rest online; `submit` sends what is due in batches and waits
            for nothing; `wait` goes on until nothing is due or open; `cancel` ends every open batch, fetches what was
            done of it, and asks nothing.
        label: one round of the labelling job: resolves labels of all answers so far and sends what is due. Gets
            who sends (None: online), what was fetched in this run, and the keys to keep to (None: all).
        limited: whether the first round is about some items only; later ones keep to those then.
        terms: the provider's limits.
        poll_seconds: between two looks at open batches.
        progress: called with lines done, lines in all, and the cost so far.
        sleep: waits.

    Returns:
        The record of the last round, which counts everything fetched in this run, with what waits in batches.

    Raises:
        FatalTeacherError: no call can succeed; labels of all that was fetched are written before.
        StoreError: the ledger cannot be written.
    """
    models = [how] if how.tie_breaker is None else [how, how.tie_breaker]
    terms, total, submitted = terms or Terms(), Fetched(), 0
    if mode == "cancel":
        total.add(run_in_loop(cancel(store, models)))
    if book.open_batches(store):
        waits = mode == "cancel"
        total.add(run_in_loop(fetch(store, models, waits, poll_seconds, progress, sleep)))
    sender = None if mode == "none" else BatchSender(terms, closed=mode == "cancel")
    labelled = label(sender, total, None)
    if sender is not None:
        keys = pl.DataFrame({"key": list(sender.keys)}, schema={"key": pl.Binary}) if limited else None
        times: Counter[tuple[bytes, int]] = Counter()
        submitted, largest, in_vain = sender.submitted.batches, sender.submitted.requests, 0
        while mode == "wait" and book.open_batches(store):
            # The record of each round counts what came before it.
            total.asked.add(sender.submitted.asked)
            total.pairs |= sender.submitted.buried
            got = run_in_loop(fetch(store, models, True, poll_seconds, progress, sleep))
            total.add(got)
            times.update(got.settled)
            # Whatever goes wrong, nothing is paid for again and again: an item and pass settles once a stage.
            news = any(times[pair] <= LAST_STAGE + 1 for pair in got.settled)
            in_vain = 0 if news or got.too_many_tokens else in_vain + 1
            terms, hopeful = _next_terms(terms, got)
            terms = replace(terms, least_requests=max(LEAST_REQUESTS, math.ceil(LEAST_SHARE * largest)))
            sender = BatchSender(terms, closed=not hopeful or in_vain >= ROUNDS_IN_VAIN)
            labelled = label(sender, total, keys)
            submitted += sender.submitted.batches
            largest = max(largest, sender.submitted.requests)
            if sender.closed:
                break
    return _with_batches(labelled, book.open_batches(store), total, submitted)


def _with_batches(labelled: Labelled, left: Sequence[Batch], total: Fetched, submitted: int) -> Labelled:
    if not (left or submitted or total.closed or total.problems):
        return labelled
    said = {
        "submitted": submitted,
        "fetched": total.closed,
        "refused": total.refused,
        "open": len(left),
        "ignored_lines": total.ignored,
        "paid_twice": total.paid_twice,
        "problems": total.problems,
    }
    return replace(labelled, waiting=sum(batch.requests for batch in left), batches=said)


def _next_terms(terms: Terms, got: Fetched) -> tuple[Terms, bool]:
    """How the next round is sent, and whether there is any use in one."""
    if got.asked.stopped is not None or got.open:
        return terms, False
    if not got.too_many_tokens:
        return terms, True
    if got.settled:  # some fitted into the provider's queue: so many at a time will
        return replace(terms, most_batches=max(1, got.closed - got.refused)), True
    smaller = min(terms.most_requests, got.too_many_tokens) // 2
    return replace(terms, most_batches=1, most_requests=max(1, smaller)), smaller >= 1
