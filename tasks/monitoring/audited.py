"""How wrong each tier is, measured on audited requests: an unbiased sample of what it answered.

Truth is what a person or an adjudicator decided, else what the teacher said beside the tier's answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from tasks.labeling.adjudicating import decided_labels
from tasks.store import Store
from tasks.store.labels import effective_labels
from tasks.store.moved import today
from tasks.store.traffic import audits
from tasks.student.intervals import clopper_pearson
from tasks.student.judged import judged_audits
from tasks.taxonomy import SEPARATOR, Taxonomy


@dataclass(frozen=True)
class Share:
    """`count` of `of`, with its exact two-sided 95 % interval (Clopper-Pearson)."""

    count: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself, in [0, 1]."""
        return self.count / self.of if self.of else 0.0


def share_of(count: int, of: int) -> Share:
    """A share with its interval; (0, 1) where there is nothing to count."""
    return Share(count, of, *(clopper_pearson(count, of) if of else (0.0, 1.0)))


@dataclass(frozen=True)
class AuditedTier:
    """One tier's audited answers: how many were wrong, and how many of them a person or adjudicator decided."""

    tier: str
    wrong: Share
    decided: int

    @property
    def against(self) -> str:
        """On whose word `wrong` rests: adjudicated only where every answer was decided."""
        return "adjudicated" if self.decided == self.wrong.of else "teacher"


@dataclass(frozen=True)
class Audited:
    """The audited answers of the last `window_days`, by tier; tiers without a judged answer are left out."""

    window_days: float
    tiers: tuple[AuditedTier, ...]

    @property
    def student(self) -> AuditedTier | None:
        """The student's."""
        return next((tier for tier in self.tiers if tier.tier == "student"), None)


def audited_error(store: Store, window_days: float, now: float, taxonomy: Taxonomy | None = None) -> Audited:
    """Judge what was audited in the window, the newest request of an item, tier by tier."""
    tiers = (
        judged_answers(store, window_days, now, taxonomy)
        .group_by("tier", maintain_order=True)
        .agg(of=pl.len(), wrong=pl.col("wrong").sum(), decided=pl.col("decided").sum())
    )
    return Audited(
        window_days,
        tuple(
            AuditedTier(row["tier"], share_of(row["wrong"], row["of"]), row["decided"])
            for row in tiers.sort("of", "tier", descending=[True, False]).iter_rows(named=True)
        ),
    )


def judged_answers(
    store: Store, window_days: float, now: float, taxonomy: Taxonomy | None = None
) -> pl.DataFrame:
    """tier, at, policy_id of each audited answer in the window that anybody judged; whether it was `wrong`.

    `decided` says that a person or an adjudicator judged; the teacher's own answers count only where they did: it
    always agrees with itself.
    """
    rows = audits(store, window_days, now)
    if taxonomy is None:
        labels = effective_labels(store)
    else:  # labels that were given before and after it changed
        upper = rows["label"].is_in([node for nodes in taxonomy.nodes for node in nodes])  # a partial answer
        rows = rows.with_columns(
            pl.when(upper).then("label").otherwise(today(rows["label"], taxonomy)).alias("label"),
            today(rows["teacher_label"], taxonomy),
        )
        labels = decided_labels(store, rows, taxonomy).with_columns(source=pl.lit("adjudicated"))
    rows = rows.drop_nulls("label")
    truth = judged_audits(rows, labels).select("key", "against", truth=pl.col("label"))
    return (
        rows.join(truth, on="key", how="inner", maintain_order="left")
        .with_columns(decided=pl.col("against") == "adjudicated")
        .filter((pl.col("tier") != "teacher") | pl.col("decided"))
        .select(
            "tier",
            "at",
            "policy_id",
            # an answer that stops at an upper level is right where the truth lies below it
            wrong=~(pl.col("truth") + SEPARATOR).str.starts_with(pl.col("label") + SEPARATOR),
            decided="decided",
        )
    )
