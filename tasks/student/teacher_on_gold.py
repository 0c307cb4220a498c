"""How right the teacher itself is, on the gold items it was asked about.

The student's numbers mean little without these beside them.
"""

from __future__ import annotations

import polars as pl

from tasks.store import Store
from tasks.store.answers import first_pass_labels
from tasks.store.moved import today
from tasks.taxonomy import Taxonomy, truncate


def teacher_on_gold(store: Store, taxonomy: Taxonomy, gold: pl.DataFrame) -> pl.DataFrame:
    """key, said: the teacher's first-pass answer about each gold item it was asked about, as a label of today."""
    said = first_pass_labels(store, gold).rename({"label": "said"})
    return said.with_columns(today(said["said"], taxonomy)).drop_nulls("said")


def teacher_metrics(said: pl.DataFrame, taxonomy: Taxonomy, gold: pl.DataFrame) -> dict[str, float]:
    """First-pass accuracy as `gold.LEVEL.top1` on the evaluation half of gold, and `rows`; {} where none was asked.

    Args:
        said: as `teacher_on_gold` gives it.
        taxonomy: names the levels.
        gold: key, label, role.
    """
    both = gold.filter(pl.col("role") == "evaluation").join(said, on="key", how="inner")
    if not both.height:
        return {}
    pairs = list(zip(both["label"].to_list(), both["said"].to_list(), strict=True))
    return {"rows": float(both.height)} | {
        f"gold.{level}.top1": sum(truncate(true, depth) == truncate(given, depth) for true, given in pairs)
        / len(pairs)
        for depth, level in enumerate(taxonomy.levels, start=1)
    }
