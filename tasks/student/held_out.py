"""What a student said out of fold about its settled rows, kept beside its version.

Without gold the promotion gate compares two versions by it.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tasks.records import Policy
from tasks.student.certifying import CalibrationSample
from tasks.student.thresholds import accepts
from tasks.whole_files import written_whole


def write_held_out(file: Path, keys: pl.DataFrame, sample: CalibrationSample, policy: Policy) -> None:
    """Write key, label, answered, covered and confidence of each row.

    Args:
        file: its folder is made.
        keys: one column `key` [n].
        sample: the same rows in the same order.
        policy: what it would have covered.
    """
    wanted = None if policy.thresholds is None else tuple(policy.thresholds.values())
    rows = keys.with_columns(
        pl.Series("label", list(sample.truth), pl.String),
        pl.Series("answered", sample.answers.labels, pl.String),
        pl.Series("covered", accepts(sample.answers.scores, wanted), pl.Boolean),
        pl.Series("confidence", sample.answers.confidence, pl.Float32),
    )
    with written_whole(file) as beside:
        rows.write_parquet(beside)
