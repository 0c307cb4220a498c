"""The cleaned labels as a frame: what cleaning writes beside a snapshot, and what second answers make of it.

Knows frames and leaf names; reads and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.cleaning.left_out import Lessons
from tasks.cleaning.relabel import Cleaning
from tasks.cleaning.treatment import Treated, two_of_three

SCHEMA: dict[str, Any] = {
    "key": pl.Binary,
    "label": pl.String,
    "overwritten": pl.Boolean,
    "suspect": pl.Boolean,
    "favourite": pl.String,
    "confidence": pl.Float32,
    "gain": pl.Float32,
    "share": pl.Float32,
    "rest": pl.String,
    "again": pl.String,
    "part": pl.Int16,
    "without": pl.List(
        pl.Struct({"part": pl.Int16, "label": pl.String, "share": pl.Float32, "rest": pl.String})
    ),
}
"""`label` is learned with `share` of the row's weight, `rest` (if any) with what is left of it; `suspect` rows are
contradicted and yet keep their label; `favourite` is what the held-out student prefers, with its `confidence` and what
it is ahead of the given label by (`gain`, null where that may not be touched); `again` the teacher's second answer.
`without` says what is learned instead while another `part` of the rows is judged, see `left_out`; null where it is the
same, and both where nobody may be judged by these rows."""


def cleaned_frame(
    keys: pl.Series,
    cleaning: Cleaning,
    treated: Treated,
    locked: NDArray[np.bool_],
    leaves: Sequence[str],
    lessons: Lessons | None = None,
) -> pl.DataFrame:
    """What training learns of each row, and why.

    Args:
        keys: of the rows [n].
        cleaning: what was proposed for them.
        treated: what became of it.
        locked: bool [n], rows that may not be touched (or that the third vote has settled).
        leaves: label names.
        lessons: what is learned otherwise while a part is judged.
    """
    names = [*leaves, None]
    frame = pl.DataFrame(
        {
            "key": keys,
            "label": [names[leaf] for leaf in treated.labels.tolist()],
            "overwritten": treated.overwritten,
            "suspect": treated.suspects,
            "favourite": [names[leaf] for leaf in cleaning.favourite.tolist()],
            "confidence": cleaning.confidence,
            "gain": pl.Series(cleaning.gain).set(pl.Series(locked), None),
            "share": treated.share,
            "rest": [names[leaf] for leaf in treated.rest.tolist()],
            "again": pl.Series([None] * len(locked), dtype=pl.String),
        },
        schema={name: kind for name, kind in SCHEMA.items() if name not in ("part", "without")},
    )
    if lessons is None:
        return frame.with_columns(**_nothing_else()).select(list(SCHEMA))
    instead = pl.DataFrame(
        {
            "row": lessons.rows,
            "part": lessons.parts,
            "label": [names[leaf] for leaf in lessons.labels.tolist()],
            "share": lessons.share,
            "rest": [names[leaf] for leaf in lessons.rest.tolist()],
        },
        schema={
            "row": pl.UInt32,
            "part": pl.Int16,
            "label": pl.String,
            "share": pl.Float32,
            "rest": pl.String,
        },
    )
    by_row = instead.group_by("row").agg(without=pl.struct("part", "label", "share", "rest"))
    return (
        frame.with_columns(part=pl.Series(lessons.part_of, dtype=pl.Int16))
        .with_row_index("row")
        .join(by_row, on="row", how="left", maintain_order="left")
        .select(list(SCHEMA))
    )


def untouched_frame(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows (key, label) that are learned from as they are."""
    return rows.select(
        "key",
        "label",
        overwritten=pl.lit(False),
        suspect=pl.lit(False),
        favourite=pl.lit(None, pl.String),
        confidence=pl.lit(None, pl.Float32),
        gain=pl.lit(None, pl.Float32),
        share=pl.lit(1.0, pl.Float32),
        rest=pl.lit(None, pl.String),
        again=pl.lit(None, pl.String),
        **_nothing_else(),
    )


def _nothing_else() -> dict[str, pl.Expr]:
    return {name: pl.lit(None, SCHEMA[name]) for name in ("part", "without")}


def to_ask_again(frame: pl.DataFrame, most_share: float) -> pl.DataFrame:
    """Keys of the rows to ask about, the most contradicted first; at most so large a share of all rows.

    The same frame always gives the same keys, whatever has been asked already: a rerun asks nobody twice, and a share
    is not spent anew each night.

    Args:
        frame: as `cleaned_frame` gives it, in mode `re-ask`.
        most_share: in [0, 1].
    """
    doubted = frame.filter((pl.col("gain") > 0) & (pl.col("favourite") != pl.col("label")))
    most = int(most_share * frame.height + 1e-9)
    return doubted.sort("gain", "key", descending=[True, False]).head(most).select("key")


def with_second_answers(
    frame: pl.DataFrame, answers: pl.DataFrame, leaves: Sequence[str], max_loss: float
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The frame after two of three have decided: the given label, the student's favourite and the second answer.

    A suspect whose label was confirmed is none any more; one on which all three differ stays one. No label loses
    more than its share, as everywhere: what would be beyond it stays for review.

    Args:
        frame: as `cleaned_frame` gives it, in mode `re-ask`.
        answers: key, label; an answer that is no leaf decides nothing.
        leaves: label names.
        max_loss: no label loses more than this share of its rows, the least contradicted stay.

    Returns:
        The frame, and how many second answers there were: `answers`, of which `kept`, `changed`, `undecided`.
    """
    said = answers.rename({"label": "said"})
    doubted = frame.filter((pl.col("gain") > 0) & (pl.col("favourite") != pl.col("label")))
    rows = doubted.join(said, on="key", how="inner", maintain_order="left").sort(
        "gain", "key", descending=[True, False]
    )
    place = {label: index for index, label in enumerate(leaves)}

    def leaf(label: str | None) -> int:
        return -1 if label is None else place.get(label, -1)

    given, favourite, again = (
        np.array([leaf(label) for label in rows[name].to_list()], np.int64)
        for name in ("label", "favourite", "said")
    )
    decided, agreed = two_of_three(given, favourite, again)
    held = frame.group_by("label").agg(rows=pl.len())
    allowed = {label: int(max_loss * count + 1e-9) for label, count in held.iter_rows()}
    changes, left = np.zeros(rows.height, bool), dict(allowed)
    for row in np.flatnonzero(decided != given).tolist():
        label = leaves[given[row]]
        changes[row], left[label] = left[label] > 0, left[label] - 1
    settled = rows.select(
        "key",
        pl.Series(
            "decided", [leaves[leaf] for leaf in np.where(changes, decided, given).tolist()], pl.String
        ),
        pl.Series("changed", changes, pl.Boolean),
        pl.Series("agreed", agreed & (changes | (decided == given)), pl.Boolean),
        "said",
    )
    joined = frame.join(settled, on="key", how="left", maintain_order="left")
    done = joined.with_columns(
        label=pl.coalesce("decided", "label"),
        overwritten=pl.col("overwritten") | pl.col("changed").fill_null(False),
        suspect=pl.when(pl.col("agreed").is_null()).then(pl.col("suspect")).otherwise(~pl.col("agreed")),
        again=pl.col("said"),
    ).select(list(SCHEMA))
    counts = {
        "answers": rows.height,
        "kept": int((agreed & (decided == given)).sum()),
        "changed": int(changes.sum()),
        "undecided": int(rows.height - (agreed & (decided == given)).sum() - changes.sum()),
    }
    return done, counts
