"""What the demo's table says, read back from the database and held against the truth that only the demo knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
from sqlalchemy import func, select

from tasks.store import Store, schema
from tasks.store.labels import effective_labels
from tasks.student.intervals import clopper_pearson
from tasks.synthetic import SYNTHETIC


@dataclass(frozen=True)
class Turn:
    """One turn's routed traffic.

    Attributes:
        tiers: requests by tier.
        cost_usd: of escalations and audits.
        answered: requests the student answered.
        true_wrong: of them, wrong by the truth.
        audited: of them, audited; audited_wrong: where the teacher (or a reviewer) said otherwise.
        low, high: 95 % interval of the audited error.
    """

    tiers: Mapping[str, int]
    cost_usd: float
    answered: int
    true_wrong: int
    audited: int
    audited_wrong: int
    low: float
    high: float

    @property
    def requests(self) -> int:
        """All requests of the turn."""
        return sum(self.tiers.values())


def turns(store: Store, truth: Mapping[str, str]) -> list[Turn]:
    """The routed turns in order, against the truth (by hexadecimal key) and against what audits know."""
    traffic = schema.traffic
    rows = store.read(select(traffic).order_by(traffic.c.id))
    judged = effective_labels(store).filter(pl.col("source").is_in(["human", "adjudicated"]))
    rows = rows.join(
        judged.select("key", pl.col("label").alias("decided")), on="key", how="left", maintain_order="left"
    )
    right = [truth.get(key.hex()) for key in rows["key"].to_list()]
    rows = rows.with_columns(
        pl.Series("truth", right, pl.String), pl.coalesce("decided", "teacher_label").alias("believed")
    )
    return [_turn(part) for part in rows.partition_by("run_id", maintain_order=True)]


def _turn(rows: pl.DataFrame) -> Turn:
    student = rows.filter(pl.col("tier") == "student")
    audited = student.filter(pl.col("audited") & pl.col("believed").is_not_null())
    wrong = int((audited["label"] != audited["believed"]).sum())
    low, high = clopper_pearson(wrong, audited.height)
    return Turn(
        tiers=dict(rows.group_by("tier", maintain_order=True).len().iter_rows()),
        cost_usd=float(rows["cost_usd"].sum()),
        answered=student.height,
        true_wrong=int((student["label"] != student["truth"]).sum()),
        audited=audited.height,
        audited_wrong=wrong,
        low=float(low),
        high=float(high),
    )


def spending(store: Store) -> dict[str, dict[str, float]]:
    """Calls, tokens and cost by stage."""
    calls = schema.calls.c
    rows = store.read(
        select(
            calls.stage,
            func.count().label("calls"),
            func.sum(calls.prompt_tokens).label("prompt_tokens"),
            func.sum(calls.completion_tokens).label("completion_tokens"),
            func.sum(calls.cost_usd).label("cost_usd"),
        ).group_by(calls.stage)
    )
    return {str(row.pop("stage")): row for row in rows.to_dicts()}


def label_error(store: Store, truth: Mapping[str, str], cleaned: pl.DataFrame) -> dict[str, float]:
    """Share of wrong training labels before and after cleaning, by the truth; written examples have none.

    Args:
        store: the open database.
        truth: hexadecimal key to label.
        cleaned: key, label, overwritten as cleaning wrote it.
    """
    raw = effective_labels(store).select("key", "source", pl.col("label").alias("raw"))
    rows = cleaned.join(raw, on="key", how="left").filter(pl.col("source").ne_missing(SYNTHETIC))
    right = pl.Series("truth", [truth.get(key.hex()) for key in rows["key"].to_list()], pl.String)
    rows = rows.with_columns(right)
    changed = rows.filter(pl.col("overwritten"))

    def share(frame: pl.DataFrame, wrong: pl.Expr) -> float:
        return frame.filter(wrong).height / frame.height if frame.height else 0.0

    return {
        "rows": float(rows.height),
        "settled": float(rows["raw"].is_not_null().sum()),
        "before": share(rows.filter(pl.col("raw").is_not_null()), pl.col("raw") != pl.col("truth")),
        "after": share(rows, pl.col("label") != pl.col("truth")),
        "overwritten": float(changed.height),
        "fixes_right": share(changed, pl.col("label") == pl.col("truth")),
    }
