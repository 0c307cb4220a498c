"""Which audited items have to be adjudicated for which model version, as its last calibration left it in a file.

Derived: written by whoever asks the student, read by who asks people or reports. Knows no student and no threshold.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl

from tasks.whole_files import written_whole

PLAN_SCHEMA: dict[str, Any] = {
    "key": pl.Binary,
    "student_label": pl.String,
    "student_confidence": pl.Float64,
    "teacher_label": pl.String,
    "differs": pl.Boolean,
    "drawn": pl.Boolean,
    "share": pl.Float64,
    "in_reach": pl.Boolean,
}
"""One row an audited item that may certify. Wanted are those in reach that differ, and whatever the coin has drawn."""

REVIEW_SCHEMA: dict[str, Any] = {
    name: PLAN_SCHEMA[name] for name in ("key", "student_label", "student_confidence", "differs")
}

WANTED = (pl.col("differs") & pl.col("in_reach")) | pl.col("drawn")


def write_plan(root: Path, version: str, plan: pl.DataFrame) -> None:
    """Afterwards the plan of a version is this one.

    Args:
        root: the folder of everything the project writes.
        version: of the model.
        plan: columns as `PLAN_SCHEMA`.
    """
    with written_whole(_file(root, version)) as beside:
        plan.select(list(PLAN_SCHEMA)).cast(pl.Schema(PLAN_SCHEMA)).write_parquet(beside)


def keep_plans(root: Path, versions: Collection[str]) -> None:
    """Afterwards versions that nobody serves or may serve soon want nothing adjudicated any more."""
    for file in _file(root, "").parent.glob("*.parquet"):
        if file.stem not in versions:
            file.unlink(missing_ok=True)


def read_plan(root: Path, version: str) -> pl.DataFrame:
    """The plan of a version; empty where there is none, or none that can be read."""
    try:
        return pl.read_parquet(_file(root, version)).select(list(PLAN_SCHEMA))
    except (pl.exceptions.PolarsError, OSError):
        return pl.DataFrame(schema=PLAN_SCHEMA)


def wanted_for_review(root: Path) -> pl.DataFrame:
    """What any version wants adjudicated, one row a key: columns as `REVIEW_SCHEMA`."""
    plans = [read_plan(root, file.stem) for file in sorted(_file(root, "").parent.glob("*.parquet"))]
    every = pl.concat([pl.DataFrame(schema=PLAN_SCHEMA), *plans]).filter(WANTED)
    every = every.sort("differs", descending=True, maintain_order=True)
    return every.unique("key", keep="first", maintain_order=True).select(list(REVIEW_SCHEMA))


def _file(root: Path, version: str) -> Path:
    return root / "adjudication" / f"{version}.parquet"
