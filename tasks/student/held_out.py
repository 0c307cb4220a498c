"""What a student said out of fold about its settled rows, kept beside its version.

Without gold the promotion gate compares two versions by it.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tasks.records import Policy
from tasks.student.certifying import CalibrationSample
from tasks.student.thresholds import accepts


def write_held_out(file: Path, keys: pl.DataFrame, sample: CalibrationSample, policy: Policy) -> None:
    """Write key, label, answered, covered and confidence of each row, beside and renamed.

    Args:
        file: its folder is made.
        keys: one column `key` [n].
        sample: the same rows in the same order.
        policy: what it would have covered.
    """
    wanted = None if policy.thresholds is None else tuple(policy.thresholds.values())
    beside = file.with_suffix(".tmp")
    file.parent.mkdir(parents=True, exist_ok=True)
    keys.with_columns(
        pl.Series("label", list(sample.truth), pl.String),
        pl.Series("answered", sample.answers.labels, pl.String),
        pl.Series("covered", accepts(sample.answers.scores, wanted), pl.Boolean),
        pl.Series("confidence", sample.answers.confidence, pl.Float32),
    ).write_parquet(beside)
    beside.rename(file)
