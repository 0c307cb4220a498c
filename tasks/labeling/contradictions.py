"""Labelled items whose label the student confidently contradicts, as cleaning and the last retrain left it.

Both judged each item by a student that never saw its label. Reads their derived files only and trains nothing;
where there are none, nothing is contradicted. What has been decided since is sorted out by the labels of today.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

CONTRADICTION_SCHEMA = {"key": pl.Binary, "student_label": pl.String, "student_confidence": pl.Float64}


def confident_contradictions(root: Path) -> pl.DataFrame:
    """key, student_label, student_confidence (from 0 to 1, null where it was not kept); one row a key.

    The newest cleaning names the labels it overwrote and, where it keeps them, its suspects; the newest retrain
    the items that its student would have answered at its own thresholds, and otherwise than labelled. What
    has been decided since is left out by `still_contradicted`.

    A file that cannot be read (a killed retrain may leave half of one) says nothing: the next one is written anew.

    Args:
        root: the folder of everything the project writes.
    """
    found = pl.concat([pl.DataFrame(schema=CONTRADICTION_SCHEMA), *_held_out(root), *_cleaned(root)])
    return found.sort("student_confidence", descending=True, nulls_last=True, maintain_order=True).unique(
        "key", keep="first", maintain_order=True
    )


def still_contradicted(doubted: pl.DataFrame, labels: pl.DataFrame, leaves: Sequence[str]) -> pl.DataFrame:
    """Those of the contradictions that hold against the labels of today, in their order.

    Args:
        doubted: as `confident_contradictions` gives them.
        labels: key, label of the items that count; an item without one is not contradicted.
        leaves: a label that is none of them contradicts nothing.
    """
    return (
        doubted.filter(pl.col("student_label").is_in(list(leaves)))
        .join(labels.select("key", "label"), on="key", maintain_order="left")
        .filter(pl.col("label") != pl.col("student_label"))
        .select(list(CONTRADICTION_SCHEMA))
    )


def _held_out(root: Path) -> Iterator[pl.DataFrame]:
    versions = [
        file
        for file in (root / "retrains").glob("*.heldout.parquet")
        if file.name.removesuffix(".heldout.parquet").isdigit()
    ]
    if versions:
        newest = max(versions, key=lambda file: int(file.name.split(".")[0]))
        table = _read(newest, ("key", "label", "answered", "covered"))
        differs = pl.col("covered") & (pl.col("label") != pl.col("answered"))
        if table is not None:
            yield _shaped(table.filter(differs), "answered", "confidence")


def _cleaned(root: Path) -> Iterator[pl.DataFrame]:
    files = list((root / "snapshots").glob("*/cleaned-*.parquet"))
    if files:
        table = _read(max(files, key=lambda file: file.stat().st_mtime_ns), ("key", "label", "overwritten"))
        if table is None:
            return
        yield _shaped(table.filter("overwritten"), "label", "confidence")
        if {"suspect", "favourite"} <= set(table.columns):
            yield _shaped(table.filter("suspect"), "favourite", "confidence")


def _shaped(table: pl.DataFrame, label: str, confidence: str) -> pl.DataFrame:
    sure = pl.col(confidence) if confidence in table.columns else pl.lit(None)
    return table.select("key", student_label=pl.col(label), student_confidence=sure.cast(pl.Float64))


def _read(file: Path, columns: tuple[str, ...]) -> pl.DataFrame | None:
    try:
        table = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError):
        return None
    return table if set(columns) <= set(table.columns) else None
