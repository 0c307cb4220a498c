"""Whether the student errs more than the policy in force promises, and whether many labels have come since training.

Judged answers and counts in, signals out.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from tasks.monitoring.drift_evidence import LEAST_ITEMS, rate_above
from tasks.monitoring.drift_signals import TESTS, Signal, Terms, date_of, signal, unknown
from tasks.monitoring.wording import percent
from tasks.records import Policy
from tasks.store.traffic import DAY_SECONDS


def audited_error_signal(answers: pl.DataFrame, policy: Policy, first_day: int, terms: Terms) -> Signal:
    """Whether more of the student's audited answers are wrong than the policy in force promises.

    Over all versions and policies: each promised it. Unless the policy is itself certified by the teacher's word alone,
    an answer counts as wrong only where a person or an adjudicator said so, which finds late rather than falsely.

    Args:
        answers: at, policy_id, wrong, decided of the student's judged answers.
        policy: in force.
        first_day: of the oldest request, days since 1970: no start may move with the window of audits.
        terms: the allowance.
    """
    name, limit = "audited_error", policy.target_error
    told = (
        answers if policy.against == "teacher" else answers.with_columns(pl.col("wrong") & pl.col("decided"))
    )
    open_ = int((answers["wrong"] & ~told["wrong"]).sum())
    waiting = (
        f" {open_:,} of {told.height:,} differ from the teacher and await a judge, adjudicator or person; until then "
        "they count as right."
        if open_
        else ""
    )
    if told.height < LEAST_ITEMS:
        return unknown(
            name, told.height, f"Too few audited answers of the student: {told.height:,}.{waiting}"
        )
    if open_ and not answers["decided"].any():
        return unknown(name, told.height, f"Nobody judges, so this never alarms.{waiting}")
    day = (told["at"] // DAY_SECONDS).cast(pl.Int64).to_numpy()
    first = int(day.min())
    trials = np.bincount(day - first)
    hits = np.bincount(day - first, weights=told["wrong"].to_numpy()).astype(np.int64)
    found = rate_above(hits, trials, limit, terms.false_alarms / TESTS, before=max(0, first - first_day))
    rate = f"{percent(found.value)} of {found.items:,} audited answers since {date_of(first + found.since)}"
    said = f"{rate} were wrong, at most {percent(limit)} are promised.{waiting}"
    return signal(name, found.value, limit, limit, found.items, found.alarm, said)


def new_labels_signal(labels: int, limit: int | None) -> Signal:
    """Whether so many labels came since the newest version was trained that the next need not wait for its night."""
    alarms = limit is not None and labels >= limit
    said = f"{labels:,} labels have come since the newest version was trained."
    return signal("new_labels", labels, None, limit, labels, alarms, said)
