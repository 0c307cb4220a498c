"""Fifty changes that a person can read: the text, the label before and after, how sure, and why.

A random sample rather than the surest ones, so that reading it says how good cleaning is. Knows frames only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tasks.labeling.review_csv import defused
from tasks.taxonomy import split

READ = 50
COLUMNS = ("id", "text", "given_label", "new_label", "done", "level", "confidence", "why")


def readable_sample(
    frame: pl.DataFrame,
    raw: pl.DataFrame,
    contents: pl.DataFrame,
    levels: Sequence[str],
    noise: Mapping[str, Mapping[str, Any]],
    method: str,
    most: int = READ,
) -> pl.DataFrame:
    """At most so many of the changed rows, as text columns and a confidence in [0, 1].

    Keys are hashes of what the items hold, so the first ones by key are a random sample, and the same one every night.

    Args:
        frame: as `cleaned_rows.cleaned_frame` gives it.
        raw: key, label, candidates (what the passes said of disputed rows).
        contents: key, source_id, text.
        levels: names of the levels, from the root down.
        noise: by level its `share`, `source` and `margin`.
        method: how the rows were found.
        most: rows to show.
    """
    changed = frame.filter(pl.col("overwritten") | (pl.col("share") < 1)).sort("key").head(most)
    rows = (
        changed.join(
            raw.select("key", "candidates", given="label"), on="key", how="left", maintain_order="left"
        )
        .join(contents.select("key", "source_id", "text"), on="key", how="left", maintain_order="left")
        .iter_rows(named=True)
    )
    told = []
    for row in rows:
        new = row["label"] if row["overwritten"] else row["favourite"]
        level = _first_difference(row["given"], new, levels)
        told.append(
            {
                "id": row["source_id"],
                "text": row["text"],
                "given_label": row["given"],
                "new_label": new,
                "done": _done(row),
                "level": level,
                "confidence": row["confidence"],
                "why": _why(row, level, noise, method),
            }
        )
    schema = dict.fromkeys(COLUMNS, pl.String) | {"confidence": pl.Float32}
    return pl.DataFrame(told, schema=schema, orient="row")


def as_csv(sample: pl.DataFrame) -> str:
    """The sample as a CSV that a spreadsheet opens as text: nothing in it is taken for a formula."""
    safe = sample.select(
        defused(name) if dtype == pl.String else name for name, dtype in sample.schema.items()
    )
    return safe.write_csv(include_bom=True)


def _first_difference(given: str, new: str, levels: Sequence[str]) -> str:
    """The name of the uppermost level at which two labels differ."""
    before, after = split(given), split(new)
    for depth, name in enumerate(levels):
        if before[depth : depth + 1] != after[depth : depth + 1]:
            return name
    return levels[-1]


def _done(row: Mapping[str, Any]) -> str:
    if row["overwritten"]:
        return "overwritten"
    return "left out" if row["rest"] is None else f"both learned, {row['share']:.0%} the given one"


def _why(row: Mapping[str, Any], level: str, noise: Mapping[str, Mapping[str, Any]], method: str) -> str:
    sure = f"{row['confidence']:.2f}"
    if row["gain"] is None:
        said = ", ".join(f"“{label}”" for label in row["candidates"] or [])
        return f"passes said {said}; a student that saw none of them gives the new label {sure} and decides"
    both = f"gives the new label {sure} and the given one {max(0.0, row['confidence'] - row['gain']):.2f}"
    if row["again"] is not None:
        return (
            f"asked again, the teacher says the new label, too; a student that never saw the given one {both}"
        )
    if method == "resubstitution":
        return f"the student, which has seen the given label, {both}"
    if method == "cleanlab":
        return f"cleanlab holds the given label to be wrong; a student that never saw it {both}"
    estimate = noise[level]
    return (
        f"a student and neighbours that never saw the given label: it {both}; ahead by {row['gain']:.2f} where"
        f" {estimate['margin']:.2f} is enough ({estimate['share']:.1%} of the labels of {level} are estimated wrong)"
    )
