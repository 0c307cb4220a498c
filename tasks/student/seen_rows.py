"""Which judged items a version has learned from: gold that came after it may be items it was trained on.

At training gold and what resembles it are taken out of the rows. Items that are checked by a person and put into gold
later would judge a student that knows them by heart.
"""

from __future__ import annotations

import polars as pl

from tasks.duplicates import near_duplicates_of
from tasks.kept_signatures import kept_signatures
from tasks.project import Project
from tasks.records import hash_of
from tasks.store import Store
from tasks.store.items import read_contents
from tasks.student.retrain_facts import facts_of


def name_of(gold: pl.DataFrame) -> str:
    """A hash of gold's keys and labels."""
    return hash_of(sorted(zip(gold["key"].to_list(), gold["label"].to_list(), strict=True)))


def not_learned(project: Project, store: Store, version: str, gold: pl.DataFrame) -> pl.DataFrame:
    """Gold without the items, and their near-duplicates, that the version was trained on.

    A version whose snapshot is not there any more (or was trained elsewhere) keeps all: nothing is known of its rows.

    Args:
        project: has the versions' facts and signatures under its root.
        store: has the contents.
        version: of the registry.
        gold: key, text, label and more, one row a key.
    """
    try:
        facts = facts_of(project.root, version) or {}
        if str(facts["trained_with"]).endswith(name_of(gold)):
            return gold  # known when it was trained, and kept out
        learned = pl.read_parquet(facts["record"]["snapshot"]["path"], columns=["key"])
    except (OSError, ValueError, KeyError):
        return gold
    rest = gold.join(learned, on="key", how="anti", maintain_order="left")
    if project.task.modality != "text" or not rest.height:
        return rest
    rows = learned.join(read_contents(store, learned), on="key", how="inner", maintain_order="left")
    texts = rows["text"].to_list()
    signed = kept_signatures(project.root / "signatures", rows["key"], texts)
    like_gold = rows.filter(pl.Series(near_duplicates_of(texts, rest["text"].to_list(), signed=signed)))
    return rest.filter(~pl.Series(near_duplicates_of(rest["text"].to_list(), like_gold["text"].to_list())))
