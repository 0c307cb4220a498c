"""What the answers about an item amount to: consensus, partial, disagreed, invalid, single or waiting; pure frames.

Knows nothing of the database or of the teacher.
"""

from __future__ import annotations

import polars as pl

from tasks.labeling.shards import in_shards
from tasks.records import LLM_SOURCES
from tasks.taxonomy import split, truncate

STATE_SCHEMA = {"key": pl.Binary, "state": pl.String, "label": pl.String}
LABELLED = ("consensus", "single")
DIFFERING = ("partial", "disagreed")
COMPLETE = ("consensus", "partial", "disagreed")  # sources of labels that all passes took part in


def item_states(answers: pl.DataFrame, passes: int, tie_break: bool = False) -> pl.DataFrame:
    """One row an item: key, state, label (only of the states consensus, single and partial).

    The states are consensus (more than half of the passes say the same), partial (they differ, but more than half
    agree on upper levels: the label is their common path, never a leaf), disagreed (they differ altogether), invalid
    (no consensus, and a pass was dead-lettered: for review), single (one label so far, or only one pass wanted),
    waiting (passes are missing and there is no one label).

    Args:
        answers: key, pass, label (null: dead-lettered), one row a key and pass.
        passes: how many passes are wanted.
        tie_break: whether the pass after them counts, where the others differ: its label wins when it then has more
            votes than any other. Answers of later passes do not count.
    """
    return pl.concat([_states_of(part, passes, tie_break) for (part,) in in_shards(answers)])


def _states_of(answers: pl.DataFrame, passes: int, tie_break: bool) -> pl.DataFrame:
    states = _states(answers.filter(pl.col("pass") <= passes), passes)
    differing = states.filter(pl.col("state") == "disagreed").select("key")
    if not differing.height:
        return states
    votes = answers.filter(pl.col("pass") <= passes + tie_break, pl.col("label").is_not_null()).join(
        differing, on="key", how="semi", maintain_order="left"
    )
    kept = pl.concat([_broken(votes, passes + 1), _upper_levels(votes)]).unique(
        "key", keep="first", maintain_order=True
    )
    return (
        states.join(kept, on="key", how="left", maintain_order="left", suffix="_kept")
        .with_columns(
            pl.coalesce("state_kept", "state").alias("state"),
            pl.coalesce("label_kept", "label").alias("label"),
        )
        .select(list(STATE_SCHEMA))
    )


def _states(counted: pl.DataFrame, passes: int) -> pl.DataFrame:
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
    labelled = pl.col("state").is_in(LABELLED)
    return joined.with_columns(state=state).select("key", "state", pl.when(labelled).then(pl.col("label")))


def _broken(votes: pl.DataFrame, last: int) -> pl.DataFrame:
    """The items whose last pass has made one label the most frequent, as states."""
    counted = votes.group_by("key", "label").agg(votes=pl.len(), last=(pl.col("pass") == last).any())
    most = pl.col("votes") == pl.col("votes").max().over("key")
    alone = most.sum().over("key") == 1
    return counted.filter(most & alone & pl.col("last")).select(
        "key", pl.lit("consensus").alias("state"), "label"
    )


def _upper_levels(votes: pl.DataFrame) -> pl.DataFrame:
    """The items on whose upper levels more than half of the votes agree, with the deepest such path, as states."""
    labels = votes["label"].unique().to_list()
    found = [pl.DataFrame(schema=STATE_SCHEMA)]
    asked = votes.group_by("key").agg(of=pl.len())
    for depth in range(max((len(split(label)) for label in labels), default=1) - 1, 0, -1):
        inner = {label: truncate(label, depth) for label in labels if len(split(label)) > depth}
        upper = votes.select(
            "key", pl.col("label").replace_strict(inner, default=None, return_dtype=pl.String)
        )
        counted = upper.drop_nulls().group_by("key", "label").agg(votes=pl.len()).join(asked, on="key")
        agreed = counted.filter(pl.col("votes") * 2 > pl.col("of"))
        found.append(agreed.select("key", pl.lit("partial").alias("state"), "label"))
    return pl.concat(found).unique("key", keep="first", maintain_order=True)


def new_label_rows(states: pl.DataFrame, raw: pl.DataFrame) -> list[tuple[bytes, str | None, str]]:
    """The label rows (key, label, source) to append so that the newest LLM label of every item is right.

    Empty when nothing changed. `partial` and `disagreed` withdraw what an earlier row said; an invalid item only
    needs that when there is something to withdraw.

    Args:
        states: as `item_states` returns them.
        raw: label rows id, key, label, source, of these keys at least.
    """
    return list(changed_labels(states, raw).iter_rows())


def changed_labels(states: pl.DataFrame, raw: pl.DataFrame, passes: int = 1) -> pl.DataFrame:
    """The same rows as a frame, of states in `passes` passes.

    One answer of several is no reason to withdraw what all passes of another prompt came to: such an item keeps what
    it has until the other passes are in.
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
    if passes > 1:
        half_done = (pl.col("state") == "single") & pl.col("had_source").is_in(COMPLETE)
        changed = changed.filter(~half_done.fill_null(False))
    needed = changed.filter((pl.col("state") != "invalid") | pl.col("had").is_not_null())
    return needed.select("key", "label", "source")
