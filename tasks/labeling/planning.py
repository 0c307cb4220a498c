"""The kinds of request that a labelling run would send, for the estimate that is made before it.

Chooses as the run itself does, but for the order, which costs nothing; sends nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from random import Random

import polars as pl

from tasks.labeling.agreement import Agreement, agreement_of, counted
from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import in_batches
from tasks.labeling.estimate import Leg
from tasks.labeling.grouping import Grouping
from tasks.labeling.key_ranges import key_ranges
from tasks.labeling.ledger import Version, current_answers
from tasks.labeling.prompts import WHOLE
from tasks.labeling.requests import Request
from tasks.labeling.selection import PASS, choose, stored_requests, what_is_due
from tasks.labeling.sending import VOTES
from tasks.labeling.shortlist import listed_labels
from tasks.store import Store, schema
from tasks.taxonomy import truncate

SAMPLED_REQUESTS = 16
ASSUMED_DIFFERING = 0.15  # share of items on which passes differ, while none has been seen
ASSUMED_ELSEWHERE = (
    0.02  # share of items whose label is not on their shortlist; notebooks/LOG.md has 1 % to 12 %
)


def legs_of(
    store: Store,
    how: Asking,
    passes: int,
    excluded: pl.DataFrame,
    limit: int | None = None,
    seed: int = 0,
    decided: Sequence[tuple[str, str]] = (),
) -> tuple[list[Leg], int]:
    """The legs of the run that `label_items` would make now, and how many items it would ask about.

    Candidates and examples are no item's own, which would take an encoder: as many stand in for them.

    Args:
        store: the open database.
        how: the teacher.
        passes: independent passes an item.
        excluded: a column `key`; never asked about.
        limit: at most so many items.
        seed: of the sample.
        decided: the items (text, label) that may be shown as examples.
    """
    how = replace(how, passes=passes)
    lacking = what_is_due(store, how.version, passes, excluded, in_batches(store, how))
    chosen = choose(lacking, passes, limit, seed)
    legs = []
    for number in range(1, passes + 1):
        due = chosen.due.filter(pl.col("pass") == number)
        legs += _legs("label", how, _sample(store, how, due, seed, decided), due.height, seed, decided)
    if how.breaks_ties:
        share = _agreement(store, how.version, passes, how.prompt.taxonomy.levels).share
        differing = ASSUMED_DIFFERING if share is None else 1 - share
        last = chosen.why.select("item_id", pl.lit(passes + 1, PASS).alias("pass"))
        breaker = how.tie_breaker or how
        sample = _sample(store, breaker, last, seed, decided)
        legs += _legs("tie_break", breaker, sample, round(differing * last.height), seed, decided)
    return legs, chosen.items


def _agreement(store: Store, version: Version, passes: int, levels: Sequence[str]) -> Agreement:
    """How far the passes agree that are in the ledger already."""
    parts = key_ranges(store, schema.answers)
    answers = (current_answers(store, version, columns=VOTES, part=part) for part in parts)
    return agreement_of(pl.concat([counted(part, passes) for part in answers]), levels)


def _legs(
    stage: str,
    how: Asking,
    sample: Sequence[Request],
    items: int,
    seed: int,
    decided: Sequence[tuple[str, str]],
) -> list[Leg]:
    """The requests about so many items in one pass, in one stage or two."""
    prompt = how.prompt
    unknown = (
        "; no decided item is there yet to be shown as an example" if prompt.examples and not decided else ""
    )
    first = Leg(stage, how, sample, items, unknown=unknown)
    if sample and sample[0].items[0].candidates:
        # Whose label is not on its shortlist is asked about once more, with all labels.
        again = [replace(request, branch=WHOLE) for request in sample]
        elsewhere = Leg(
            stage,
            how,
            again,
            round(ASSUMED_ELSEWHERE * items),
            unknown=f"; {ASSUMED_ELSEWHERE:.0%} not on shortlists",
        )
        return [first, elsewhere]
    if how.stages == 1 or len(prompt.taxonomy.levels) == 1:
        return [first]
    # Nobody knows yet how items spread over the branches: evenly over the leaves is assumed.
    leaves = prompt.taxonomy.leaves
    below = Counter(branch for leaf in leaves if (branch := truncate(leaf, 1)) != leaf)
    of_branch = {branch: items * count / len(leaves) for branch, count in below.items()}
    calls = {branch: math.ceil(count / how.items_per_call) for branch, count in of_branch.items()}
    second = round(sum(of_branch.values()))
    pool = [item for request in sample for item in request.items]
    if not second or not pool:
        return [first]
    number, rng = sample[0].pass_number, Random(seed)
    requests = []
    for branch in rng.choices(list(calls), list(calls.values()), k=SAMPLED_REQUESTS):
        size = min(len(pool), max(1, round(of_branch[branch] / calls[branch])))
        requests.append(Request(tuple(rng.sample(pool, size)), number, branch))
    return [first, Leg(stage, how, requests, second, sum(calls.values()) / second, unknown)]


def _sample(
    store: Store, how: Asking, due: pl.DataFrame, seed: int, decided: Sequence[tuple[str, str]]
) -> Sequence[Request]:
    wanted = min(due.height, SAMPLED_REQUESTS * how.items_per_call)
    singles = stored_requests(store, due.sample(wanted, seed=seed), how.prompt.modality)
    supply = Grouping(_with_stand_ins(how, singles, seed, decided), how.items_per_call, seed)
    return list(islice(iter(supply.take, None), SAMPLED_REQUESTS))


def _with_stand_ins(
    how: Asking, singles: Iterator[Request], seed: int, decided: Sequence[tuple[str, str]]
) -> Iterator[Request]:
    """Whatever candidates and examples an item gets, there are so many of them, of such lengths."""
    prompt, rng = how.prompt, Random(seed)
    labels = listed_labels(prompt.taxonomy)
    offered = prompt.shortlist if prompt.shortlist and prompt.shortlist < len(labels) else 0
    shown = min(prompt.examples, len(decided))
    for single in singles:
        items = (
            replace(
                item,
                candidates=tuple(rng.sample(labels, offered)),
                examples=tuple(rng.sample(decided, shown)),
            )
            for item in single.items
        )
        yield replace(single, items=tuple(items))
