"""The kinds of request that a labelling run would send, for the estimate that is made before it.

Chooses as the run itself does, but for the order, which costs nothing; sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice

import polars as pl

from tasks.labeling.agreement import agreement
from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import in_batches
from tasks.labeling.estimate import Leg
from tasks.labeling.grouping import Grouping
from tasks.labeling.ledger import current_answers
from tasks.labeling.requests import Request
from tasks.labeling.selection import choose, item_keys, stored_requests
from tasks.store import Store

SAMPLED_REQUESTS = 16
ASSUMED_DIFFERING = 0.15  # share of items on which passes differ, while none has been seen


def legs_of(
    store: Store,
    how: Asking,
    passes: int,
    excluded: pl.DataFrame,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[list[Leg], int]:
    """The legs of the run that `label_items` would make now, and how many items it would ask about.

    Args:
        store: the open database.
        how: the teacher.
        passes: independent passes an item.
        excluded: a column `key`; never asked about.
        limit: at most so many items.
        seed: of the sample.
    """
    how = replace(how, passes=passes)
    answers = current_answers(store, how.version, columns=("key", "pass", "label"))
    known = pl.concat([answers.select("key", "pass"), in_batches(store, how)])
    chosen = choose(item_keys(store), known, excluded, passes, limit, seed)
    legs = []
    for number in range(1, passes + 1):
        due = chosen.due.filter(pl.col("pass") == number)
        sample = _sample(store, how, due, seed)
        legs.append(Leg("label", how, sample, due.height))
        if how.stages == 2:
            legs.append(Leg("label", how, _second_stage(how, sample), due.height))
    if how.breaks_ties:
        share = agreement(answers, passes, how.prompt.taxonomy.levels).share
        differing = ASSUMED_DIFFERING if share is None else 1 - share
        last = chosen.due.unique("key", maintain_order=True).with_columns(
            pl.lit(passes + 1, pl.Int64).alias("pass")
        )
        breaker = how.tie_breaker or how
        sample = _sample(store, breaker, last, seed)
        legs.append(Leg("tie_break", breaker, sample, round(differing * last.height)))
    return legs, chosen.items


def _sample(store: Store, how: Asking, due: pl.DataFrame, seed: int) -> Sequence[Request]:
    wanted = min(due.height, SAMPLED_REQUESTS * how.items_per_call)
    singles = stored_requests(store, due.sample(wanted, seed=seed), how.prompt.modality)
    supply = Grouping(_with_candidates(how, singles), how.items_per_call, seed)
    return list(islice(iter(supply.take, None), SAMPLED_REQUESTS))


def _with_candidates(how: Asking, singles: Iterator[Request]) -> Iterator[Request]:
    """Whatever candidates an item gets, there are so many of them."""
    offered = how.prompt.taxonomy.leaves[: how.prompt.shortlist] if how.prompt.shortlist else ()
    for single in singles:
        yield replace(single, items=tuple(replace(item, candidates=offered) for item in single.items))


def _second_stage(how: Asking, sample: Sequence[Request]) -> Sequence[Request]:
    leaves = how.prompt.taxonomy.leaf_index
    branches = [label for label in how.prompt.taxonomy.nodes[0] if label not in leaves]
    return [replace(request, branch=branch) for request, branch in zip(sample, cycle(branches), strict=False)]
