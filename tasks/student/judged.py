"""Judged items: gold in its halves, audited traffic, and what a student says about them.

Gold is split once by key hash: one half calibrates (a quarter of it fits the temperature, the rest certifies),
the other half only evaluates and gates. Audited items split the same way while they are in their window.
"""

from __future__ import annotations

import polars as pl

from tasks.records import half_of
from tasks.student.certifying import ENOUGH_ROWS

TEMPERATURE_SHARE = 0.25
MIN_TEMPERATURE_ROWS = 80


def with_roles(rows: pl.DataFrame) -> pl.DataFrame:
    """Adds `role` to rows with a `key`: temperature, calibration or evaluation, by key hash.

    A calibration half too small to spare rows for the temperature certifies with all of them.
    """
    keys = rows["key"].to_list()
    roles = [half_of(key) for key in keys]
    wants = [
        role == "calibration" and half_of(key[::-1], TEMPERATURE_SHARE) == "calibration"
        for key, role in zip(keys, roles, strict=True)
    ]
    if sum(wants) >= MIN_TEMPERATURE_ROWS:
        roles = ["temperature" if want else role for want, role in zip(wants, roles, strict=True)]
    return rows.with_columns(pl.Series("role", roles, pl.String))


def gold_certifies(gold: pl.DataFrame) -> bool:
    """Whether there is enough gold to certify on, so that no certificate rests on training rows."""
    return with_roles(gold).filter(pl.col("role") == "calibration").height >= ENOUGH_ROWS


def judged_audits(audits: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Audited requests with the best truth there is: key, label, against, role.

    Args:
        audits: key, teacher_label.
        labels: key, label, source of the effective labels.

    A person's (or a stronger model's) label wins and counts as `adjudicated`; else the teacher's.
    """
    decided = labels.filter(pl.col("source").is_in(["human", "adjudicated"])).select(
        "key", pl.col("label").alias("decided")
    )
    rows = audits.join(decided, on="key", how="left", maintain_order="left").select(
        "key",
        pl.coalesce("decided", "teacher_label").alias("label"),
        pl.when(pl.col("decided").is_not_null())
        .then(pl.lit("adjudicated"))
        .otherwise(pl.lit("teacher"))
        .alias("against"),
    )
    rows = rows.filter(pl.col("label").is_not_null())
    return rows.with_columns(pl.Series("role", [half_of(key) for key in rows["key"].to_list()], pl.String))
