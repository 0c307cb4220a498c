"""The teacher's errors as they were counted: on gold that it was asked about, and by passes that differ.

Reads gold and answers; what follows from the counts is `noise`'s business.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from tasks.cleaning.noise import Counted, counted_by_pairs
from tasks.project import Project
from tasks.sources import read_gold
from tasks.store import Store
from tasks.store.answers import candidates, first_pass_labels
from tasks.store.moved import today
from tasks.student.judged import with_roles
from tasks.student.package import levels_of
from tasks.taxonomy import truncate


def counted_on_gold(project: Project, store: Store) -> list[Counted]:
    """By level the teacher's errors on the gold that is set aside to be looked at; empty where there is none.

    What certifies and what gates decides nothing about training.
    """
    gold = read_gold(project)
    if project.cleaning.method != "cross_fitted" or not gold.height:
        return []
    ours = with_roles(gold).filter(pl.col("role") == "temperature")
    said = first_pass_labels(store, ours).rename({"label": "said"})
    said = said.with_columns(today(said["said"], project.taxonomy)).drop_nulls("said")
    both = ours.join(said, on="key", how="inner")
    pairs = list(zip(both["label"].to_list(), both["said"].to_list(), strict=True))
    return [
        Counted(sum(truncate(true, depth) != truncate(said, depth) for true, said in pairs), len(pairs))
        for depth in range(1, len(project.taxonomy.levels) + 1)
    ]


def counted_by_passes(project: Project, store: Store, keys: pl.DataFrame) -> list[Counted]:
    """By level how often one pass errs, from the first two answers about each of the items (a column `key`).

    From the answers, not from what they came to: where a further vote has made a label of two that differ, the two
    differ all the same.
    """
    answers = candidates(store, keys.clear()).join(keys, on="key", how="semi").explode("candidates")
    answers = answers.with_columns(today(answers["candidates"], project.taxonomy)).drop_nulls("candidates")
    heard = answers.group_by("key", maintain_order=True).agg(pl.col("candidates").head(2))
    pairs = heard.filter(pl.col("candidates").list.len() == 2)["candidates"].explode().to_list()
    leaves = np.array([project.taxonomy.leaf_index[label] for label in pairs], np.int64)
    return counted_by_pairs(leaves.reshape(-1, 2), levels_of(project.taxonomy))
