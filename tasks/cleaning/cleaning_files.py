"""What a cleaning came to, as a record and files beside its snapshot: the labels, a sample to read, the record.

Counts and writes; how labels were found to be wrong is decided elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from tasks.cleaning.sample import as_csv, readable_sample
from tasks.project import Project
from tasks.records import Cleaned, Snapshot
from tasks.taxonomy import Taxonomy, truncate
from tasks.whole_files import written_whole


def cleaning_before(path: Path, snapshot: Snapshot) -> Cleaned | None:
    """The record of a cleaning that was written before; None where there is none."""
    said = path.with_suffix(".json")
    if not said.exists():
        return None
    record = Cleaned(**json.loads(said.read_text(encoding="utf-8")))
    pairs = [(given, new, count) for given, new, count in record.confused_pairs]  # JSON knows no tuples
    return replace(
        record,
        snapshot=snapshot,
        path=str(path),
        sample=sample_beside(path, record.sample),
        confused_pairs=pairs,
    )


def write_cleaning(record: Cleaned, frame: pl.DataFrame, sample: str | None) -> Cleaned:
    """The labels, then a sample of them to read, last the record: what a kill leaves is not taken for a cleaning."""
    path = Path(record.path)
    record = replace(record, sample=sample_beside(path, sample))
    with written_whole(path) as beside:
        frame.write_parquet(beside)
    for suffix, text in ((".sample.csv", sample), (".json", json.dumps(record.as_dict()))):
        if text is not None:
            with written_whole(path.with_suffix(suffix)) as beside:
                beside.write_text(text, encoding="utf-8")
    return record


def sample_beside(path: Path, sample: str | None) -> str | None:
    """Where the sample of a cleaning lies; None where there is none."""
    return None if sample is None else str(path.with_suffix(".sample.csv"))


def sample_of(
    project: Project,
    frame: pl.DataFrame,
    rows: pl.DataFrame,
    contents: pl.DataFrame,
    noise: Mapping[str, Any],
) -> str:
    """Changes for a person to read, as CSV."""
    levels = project.taxonomy.levels
    return as_csv(readable_sample(frame, rows, contents, levels, noise, project.cleaning.method))


def changes_by_level_of(
    rows: pl.DataFrame, frame: pl.DataFrame, taxonomy: Taxonomy
) -> dict[str, dict[str, float]]:
    """By level how many labels there are and how many of them are overwritten there."""
    both = rows.select("key", given="label").join(
        frame.select("key", "label"), on="key", maintain_order="left"
    )
    found = {}
    for depth, level in enumerate(taxonomy.levels, start=1):
        cut = {label: truncate(label, depth) for label in taxonomy.leaves}
        before, after = (
            both[name].replace_strict(cut, return_dtype=pl.String) for name in ("given", "label")
        )
        changed = int((before != after).sum())
        found[level] = {
            "labels": both.height,
            "overwritten": changed,
            "share": changed / both.height if both.height else 0.0,
        }
    return found


def confused_labels(rows: pl.DataFrame, frame: pl.DataFrame) -> list[tuple[str, str, int]]:
    """(given label, new label, how often), the most frequent first."""
    both = (
        frame.filter("overwritten").select("key", "label").join(rows.select("key", given="label"), on="key")
    )
    pairs = (
        both.group_by("given", "label").len().sort("len", "given", "label", descending=[True, False, False])
    )
    return [(given, new, count) for given, new, count in pairs.head(50).iter_rows()]
