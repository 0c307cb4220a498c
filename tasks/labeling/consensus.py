"""What the answers about an item amount to: consensus, disagreed, invalid, single or waiting; pure frames.

Knows nothing of the database or of the teacher. Also measures how far passes agree with each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import polars as pl

from tasks.records import LLM_SOURCES
from tasks.taxonomy import truncate

STATE_SCHEMA = {"key": pl.Binary, "state": pl.String, "label": pl.String}


def item_states(answers: pl.DataFrame, passes: int) -> pl.DataFrame:
    """One row an item: key, state, label (only of the states consensus and single).

    The states are consensus (more than half of the passes say the same), disagreed (they do not), invalid (no
    consensus, and a pass was dead-lettered: for review), single (one label so far, or only one pass wanted),
    waiting (passes are missing and there is no one label).

    Args:
        answers: key, pass, label (null: dead-lettered), one row a key and pass.
        passes: how many passes are wanted; answers of later ones do not count.
    """
    counted = answers.filter(pl.col("pass") <= passes)
    votes = counted.filter(pl.col("label").is_not_null()).group_by("key", "label").agg(votes=pl.len())
    best = (
        votes.sort("votes", "label", descending=[True, False])
        .group_by("key", maintain_order=True)
        .agg(pl.col("label").first(), pl.col("votes").first(), said=pl.len())
    )
    items = counted.group_by("key", maintain_order=True).agg(
        answered=pl.len(), dead=pl.col("label").null_count()
    )
    joined = items.join(best, on="key", how="left", maintain_order="left")
    complete = pl.col("answered") >= passes
    one_label = (pl.col("said") == 1).fill_null(False)
    state = (
        pl.when(~complete & one_label)
        .then(pl.lit("single"))
        .when(~complete)
        .then(pl.lit("waiting"))
        .when(pl.col("votes") * 2 > passes)
        .then(pl.lit("consensus" if passes > 1 else "single"))
        .when(pl.col("dead") > 0)
        .then(pl.lit("invalid"))
        .otherwise(pl.lit("disagreed"))
    )
    labelled = pl.col("state").is_in(["consensus", "single"])
    return joined.with_columns(state=state).select("key", "state", pl.when(labelled).then(pl.col("label")))


def new_label_rows(states: pl.DataFrame, raw: pl.DataFrame) -> list[tuple[bytes, str | None, str]]:
    """The label rows (key, label, source) to append so that the newest LLM label of every item is right.

    Empty when nothing changed. `disagreed` with label None withdraws what an earlier row said; an invalid item
    only needs that when there is something to withdraw.

    Args:
        states: as `item_states` returns them.
        raw: label rows id, key, label, source, of these keys at least.
    """
    newest = (
        raw.filter(pl.col("source").is_in(LLM_SOURCES))
        .sort("id")
        .unique("key", keep="last", maintain_order=True)
        .select("key", had=pl.col("label"), had_source=pl.col("source"))
    )
    wanted = states.filter(pl.col("state") != "waiting").join(
        newest, on="key", how="left", maintain_order="left"
    )
    source = (
        pl.when(pl.col("label").is_null())
        .then(pl.lit("disagreed"))
        .otherwise(pl.col("state"))
        .alias("source")
    )
    changed = wanted.with_columns(source).filter(
        pl.col("label").ne_missing(pl.col("had")) | pl.col("source").ne_missing(pl.col("had_source"))
    )
    needed = changed.filter((pl.col("state") != "invalid") | pl.col("had").is_not_null())
    return list(needed.select("key", "label", "source").iter_rows())


@dataclass(frozen=True)
class Agreement:
    """How far passes agree on the items that all of them labelled; shares from 0 to 1, None without items."""

    items: int = 0
    share: float | None = None
    kappa: float | None = None
    by_label: Mapping[str, float] = field(default_factory=dict)
    by_level: Mapping[str, float] = field(default_factory=dict)


def agreement(answers: pl.DataFrame, passes: int, levels: Sequence[str]) -> Agreement:
    """Agreement of the passes: overall, by label and by level, with Cohen's kappa.

    By label it is, of the items for which any pass said the label, the share for which all did. Kappa (Cohen
    1960) is the mean over the pairs of passes.

    Args:
        answers: key, pass, label; one row a key and pass.
        passes: how many are compared; fewer than two compare nothing.
        levels: names of the levels, from the root down.
    """
    said = answers.filter(pl.col("label").is_not_null() & (pl.col("pass") <= passes))
    names = [str(number) for number in range(1, passes + 1)]
    if passes < 2 or set(said["pass"].unique()) != set(range(1, passes + 1)):
        return Agreement()
    wide = said.pivot("pass", index="key", values="label").drop_nulls(names).select(names)
    if not wide.height:
        return Agreement()
    paths = {label: label for label in said["label"].unique()}
    by_level = {}
    for depth, level in enumerate(levels, start=1):
        cut = {label: truncate(label, depth) for label in paths}
        by_level[level] = _share(wide.select(pl.all().replace_strict(cut, return_dtype=pl.String)), names)
    same = wide.filter(_all_equal(names))
    kept = dict(same.group_by(names[0]).len().iter_rows())
    mentions = wide.with_row_index().unpivot(names, index="index").unique(["index", "value"])
    by_label = {
        label: kept.get(label, 0) / count
        for label, count in mentions.group_by("value").len().sort("value").iter_rows()
    }
    kappas = [_kappa(wide, first, second) for first, second in combinations(names, 2)]
    return Agreement(wide.height, same.height / wide.height, sum(kappas) / len(kappas), by_label, by_level)


def _all_equal(names: Sequence[str]) -> pl.Expr:
    return pl.all_horizontal(pl.col(name) == pl.col(names[0]) for name in names[1:])


def _share(wide: pl.DataFrame, names: Sequence[str]) -> float:
    return wide.filter(_all_equal(names)).height / wide.height


def _kappa(wide: pl.DataFrame, first: str, second: str) -> float:
    """(observed - expected) / (1 - expected); 1 where both passes only ever say one and the same label."""
    observed = _share(wide, [first, second])
    shares = [dict(wide.group_by(name).len().iter_rows()) for name in (first, second)]
    expected = sum(count * shares[1].get(label, 0) for label, count in shares[0].items()) / wide.height**2
    return 1.0 if expected >= 1.0 else (observed - expected) / (1.0 - expected)
