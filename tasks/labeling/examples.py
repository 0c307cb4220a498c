"""Which decided items are shown beside an item: like it, unlike each other, and never gold nor near-duplicates.

Plain numpy and polars over frames and vectors. Knows neither the database nor prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.duplicates import near_duplicate_groups, near_duplicates_of
from tasks.labeling.shortlist import nearest, unit

RELEVANCE = 0.7
"""Of likeness to the item, the rest of unlikeness to what is chosen already: maximal marginal relevance (Carbonell &
Goldstein 1998)."""

MOST_OF_A_LABEL = 2  # of an item's examples
MOST_DECIDED = 20_000
LONGEST_CHARACTERS = 1_000  # a longer text would cost more than it shows
ROWS_AT_ONCE = 256

BY_PEOPLE = ("human", "adjudicated")
DECIDED_SCHEMA = {"key": pl.Binary, "text": pl.String, "label": pl.String}


@dataclass(frozen=True, eq=False)
class Decided:
    """Items that may be shown: texts [n], their labels [n], unit vectors float32 [n, d]."""

    texts: Sequence[str]
    labels: Sequence[str]
    vectors: NDArray[np.float32]

    def examples(self, places: Sequence[int]) -> tuple[tuple[str, str], ...]:
        """(text, label) of the places that are not negative."""
        return tuple((self.texts[place], self.labels[place]) for place in places if place >= 0)


def may_be_shown(
    labels: pl.DataFrame,
    contents: pl.DataFrame,
    escalated: pl.DataFrame,
    gold: pl.DataFrame,
    withheld: pl.DataFrame,
    leaves: Sequence[str],
    most: int = MOST_DECIDED,
) -> pl.DataFrame:
    """The decided items: those that a person or an adjudicator labelled, then escalations with agreeing passes.

    Args:
        labels: the label that counts of each item: key, label, source.
        contents: key, text.
        escalated: a column `key`, what the router sent to the teacher.
        gold: key, text; neither gold nor what nearly equals it is ever shown.
        withheld: a column `key` of what judges the student, and so must stay unknown (audits in their window).
        leaves: a label outside the taxonomy is not shown.
        most: of items; what people decided goes first.

    Returns:
        key, text, label.
    """
    by_people = labels.filter(pl.col("source").is_in(BY_PEOPLE))
    agreed = labels.filter(pl.col("source") == "consensus").join(escalated, on="key", how="semi")
    decided = (
        pl.concat([by_people, agreed])
        .filter(pl.col("label").is_in(list(leaves)))
        .join(gold.select("key"), on="key", how="anti", maintain_order="left")
        .join(withheld.select("key"), on="key", how="anti", maintain_order="left")
        .unique("key", keep="first", maintain_order=True)
        .join(contents.select("key", "text"), on="key", maintain_order="left")
        .filter(pl.col("text").str.len_chars().is_between(1, LONGEST_CHARACTERS))
        .head(most)
    )
    near_gold = near_duplicates_of(decided["text"].to_list(), gold["text"].drop_nulls().to_list())
    return decided.filter(pl.Series(~near_gold)).select(list(DECIDED_SCHEMA))


def choose_examples(
    texts: Sequence[str], X: NDArray[np.float32], decided: Decided, count: int
) -> NDArray[np.int32]:
    """The examples of each item by maximal marginal relevance, at most `MOST_OF_A_LABEL` of one label.

    Neither the item itself nor a near-duplicate of it is among them: it would be told its answer.

    Args:
        texts: [n], of the items.
        X: float32 [n, d], their vectors.
        decided: what may be shown.
        count: examples an item.

    Returns:
        int32 [n, count], places in `decided`, the best first; -1 where there are no more.
    """
    chosen = np.full((len(texts), count), -1, np.int32)
    if not len(decided.texts) or not len(texts) or not count:
        return chosen
    groups = near_duplicate_groups([*decided.texts, *texts])
    own, others = groups[len(decided.texts) :], groups[: len(decided.texts)]
    labels = np.unique(np.asarray(decided.labels), return_inverse=True)[1]
    vectors = unit(decided.vectors)
    near = nearest(X, vectors, 8 * count + 8)
    for first in range(0, len(texts), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        allowed = others[near[rows]] != own[rows, None]
        chosen[rows] = _marginal(unit(X[rows]), vectors, near[rows], allowed, labels, count)
    return chosen


def _marginal(
    X: NDArray[np.float32],
    vectors: NDArray[np.float32],
    near: NDArray[np.int32],
    allowed: NDArray[np.bool_],
    labels: NDArray[np.int64],
    count: int,
) -> NDArray[np.int32]:
    V, label = vectors[near], labels[near]
    relevance = np.einsum("nmd,nd->nm", V, X)
    likeness = np.einsum("nmd,nkd->nmk", V, V)
    redundancy = np.full_like(relevance, -1.0)
    of_label = np.zeros(near.shape, np.int64)
    every = np.arange(len(near))
    chosen = np.full((len(near), count), -1, np.int32)
    for turn in range(count):
        score = RELEVANCE * relevance - (1 - RELEVANCE) * (redundancy if turn else 0.0)
        score = np.where(allowed & (of_label < MOST_OF_A_LABEL), score, -np.inf)
        best = score.argmax(axis=1)
        found = np.isfinite(score[every, best])
        chosen[found, turn] = near[every, best][found]
        allowed = allowed & (np.arange(near.shape[1]) != best[:, None])
        of_label += (label == label[every, best][:, None]) & found[:, None]
        redundancy = np.maximum(redundancy, likeness[every, best])
    return chosen
