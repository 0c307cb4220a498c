"""How far passes agree with each other: overall, by label, by level and beyond chance; pure frames.

Knows nothing of what their answers amount to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import polars as pl

from tasks.labeling.shards import in_shards
from tasks.taxonomy import truncate

MIN_MENTIONS = 5  # labels said less often are not called the least agreed on


@dataclass(frozen=True)
class Agreement:
    """How far passes agree on the items that all of them labelled; shares from 0 to 1, None without items.

    `mentions` are the items of which any pass said a label, which its share in `by_label` is of.
    """

    items: int = 0
    share: float | None = None
    kappa: float | None = None
    by_label: Mapping[str, float] = field(default_factory=dict)
    by_level: Mapping[str, float] = field(default_factory=dict)
    mentions: Mapping[str, int] = field(default_factory=dict)

    def least(self, most: int, at_least: int = MIN_MENTIONS) -> list[tuple[str, float, int]]:
        """The labels that passes agree on least: label, share, items of which any pass said it.

        Those said of fewer than `at_least` items come in only where there are no others: chance makes them the worst.
        """
        doubted = [
            (label, share, self.mentions[label]) for label, share in self.by_label.items() if share < 1
        ]
        return sorted(doubted, key=lambda row: (row[2] < at_least, row[1], -row[2], row[0]))[:most]


def agreement(answers: pl.DataFrame, passes: int, levels: Sequence[str]) -> Agreement:
    """Agreement of the passes: overall, by label and by level, with Cohen's kappa.

    By label it is, of the items for which any pass said the label, the share for which all did. Kappa (Cohen
    1960) is the mean over the pairs of passes.

    Args:
        answers: key, pass, label; one row a key and pass.
        passes: how many are compared; fewer than two compare nothing.
        levels: names of the levels, from the root down.
    """
    return agreement_of(counted(answers, passes), levels)


def counted(answers: pl.DataFrame, passes: int) -> pl.DataFrame:
    """How often the passes said what: a column a pass (`1`, `2`, ...) with its label, and `items`.

    Only items that all passes labelled count. Such counts of some items and of others may be put together.
    """
    names = [str(number) for number in range(1, passes + 1)]
    return pl.concat([_counted(part, names) for (part,) in in_shards(answers)])


def agreement_of(counts: pl.DataFrame, levels: Sequence[str]) -> Agreement:
    """What `counted` amounts to."""
    names = [name for name in counts.columns if name != "items"]
    counts = counts.group_by(names).agg(pl.col("items").sum())
    items = int(counts["items"].sum())
    if len(names) < 2 or not items:
        return Agreement()
    labels = sorted({label for name in names for label in counts[name].unique()})
    by_level = {}
    for depth, level in enumerate(levels, start=1):
        cut = {label: truncate(label, depth) for label in labels}
        at_level = counts.with_columns(pl.col(names).replace_strict(cut, return_dtype=pl.String))
        by_level[level] = _share(at_level, names)
    kept = dict(counts.filter(_all_equal(names)).select(names[0], "items").iter_rows())
    said = counts.with_row_index().unpivot(names, index=["index", "items"]).unique(["index", "value"])
    mentions = dict(said.group_by("value").agg(pl.col("items").sum()).sort("value").iter_rows())
    by_label = {label: kept.get(label, 0) / count for label, count in mentions.items()}
    kappas = [_kappa(counts, first, second) for first, second in combinations(names, 2)]
    kappa = sum(kappas) / len(kappas)
    return Agreement(items, _share(counts, names), kappa, by_label, by_level, mentions)


def _counted(answers: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    said = answers.filter(pl.col("label").is_not_null())
    wide = said.select("key").clear().unique()
    for place, name in enumerate(names):
        one = said.filter(pl.col("pass") == int(name)).select("key", pl.col("label").alias(name))
        wide = one if place == 0 else wide.join(one, on="key")
    return wide.group_by(names).agg(pl.len().cast(pl.Int64).alias("items"))


def _all_equal(names: Sequence[str]) -> pl.Expr:
    return pl.all_horizontal(pl.col(name) == pl.col(names[0]) for name in names[1:])


def _share(counts: pl.DataFrame, names: Sequence[str]) -> float:
    return int(counts.filter(_all_equal(names))["items"].sum()) / int(counts["items"].sum())


def _kappa(counts: pl.DataFrame, first: str, second: str) -> float:
    """(observed - expected) / (1 - expected); 1 where both passes only ever say one and the same label."""
    observed, items = _share(counts, [first, second]), int(counts["items"].sum())
    said = [dict(counts.group_by(name).agg(pl.col("items").sum()).iter_rows()) for name in (first, second)]
    expected = sum(count * said[1].get(label, 0) for label, count in said[0].items()) / items**2
    return 1.0 if expected >= 1.0 else (observed - expected) / (1.0 - expected)
