"""What was routed under a policy, counted by day as its calibration sample was: how much, how surely, which labels.

Reads the traffic log a piece at a time, only what was logged since the policy was issued; holds counts alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sqlalchemy import select

from tasks.records import Policy
from tasks.store import Store, schema
from tasks.store.traffic import CACHE_TIERS, DAY_SECONDS
from tasks.student.calibration_profile import binned
from tasks.student.package import Answers


@dataclass(frozen=True, eq=False)
class Traffic:
    """Cache misses under one policy, which are all that a student ever sees, by calendar day (UTC).

    Attributes:
        first_day: days since 1970 of the first row of every array.
        requests: int [days].
        answered: int [days], of those by the student.
        scores: int [days, bins], those that the student read, in the bins of the policy's profile.
        familiarity: likewise; None where it keeps no prototypes, then or now.
        labels: int [days, labels], by the label the student gives, in the order of `names`.
        names: labels of sample and traffic, sorted.
    """

    first_day: int
    requests: NDArray[np.int64]
    answered: NDArray[np.int64]
    scores: NDArray[np.int64]
    familiarity: NDArray[np.int64] | None
    labels: NDArray[np.int64]
    names: list[str]


def traffic_under(store: Store, policy: Policy) -> Traffic | None:
    """The cache misses routed under a stored policy that has a profile; None where there are none."""
    profile = policy.calibration_profile
    assert profile is not None
    columns = schema.traffic.c
    query = (
        select(
            columns.at,
            columns.would_tier,
            columns.student_label,
            columns.student_confidences,
            columns.familiarity,
        )
        .where(columns.id > policy.after_request)
        .where(columns.policy_id == policy.id)
        .where(columns.would_tier.not_in(CACHE_TIERS))
    )
    shapes = {name: profile[name] for name in ("scores", "familiarity") if profile[name] is not None}
    counted: dict[str, list[pl.DataFrame]] = {"requests": [], "labels": [], **{name: [] for name in shapes}}
    for chunk in store.stream(query):
        rows = chunk.with_columns(day=(pl.col("at") // DAY_SECONDS).cast(pl.Int64))
        counted["requests"].append(_count(rows.select("day", part=pl.col("would_tier") == "student")))
        read = rows.drop_nulls("student_confidences")
        counted["labels"].append(_count(read.select("day", part="student_label")))
        answers = _answers(read)
        for name, values in (("scores", answers.scores[:, -1]), ("familiarity", answers.familiarity)):
            if name in shapes and values is not None:
                bins = binned(values, np.asarray(shapes[name]["edges"], np.float64))
                counted[name].append(_count(read.select("day", part=pl.Series(bins, dtype=pl.Int64))))
    if not counted["requests"]:
        return None
    every_day = np.concatenate([frame["day"].to_numpy() for frame in counted["requests"]])
    first, days = int(every_day.min()), int(np.ptp(every_day)) + 1
    names = sorted({*profile["labels"], *(name for frame in counted["labels"] for name in frame["part"])})
    places = pl.Enum(names)

    def table(what: str, parts: int) -> NDArray[np.int64]:
        found = np.zeros((days, parts), np.int64)
        for frame in counted[what]:
            part = (frame["part"].cast(places).to_physical() if what == "labels" else frame["part"]).cast(
                pl.Int64
            )
            np.add.at(found, (frame["day"].to_numpy() - first, part.to_numpy()), frame["len"].to_numpy())
        return found

    by_tier = table("requests", 2)
    shaped = {name: table(name, len(shape["counts"])) for name, shape in shapes.items() if counted[name]}
    return Traffic(
        first, by_tier.sum(axis=1), by_tier[:, 1], shaped["scores"], shaped.get("familiarity"),
        table("labels", len(names)), names,
    )  # fmt: skip


def first_day_of_traffic(store: Store) -> int:
    """Days since 1970 of the oldest logged request; 0 where there is none."""
    columns = schema.traffic.c
    oldest = store.scalar(select(columns.at).order_by(columns.id).limit(1))
    return int((oldest or 0.0) // DAY_SECONDS)


def _count(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("day", "part").len()


def _answers(read: pl.DataFrame) -> Answers:
    """What the log kept of the student's answers, the confidence of the deepest level alone."""
    deepest = read["student_confidences"].str.extract(r":\s*([0-9.eE+-]+)\s*\}\s*$").cast(pl.Float32)
    familiarity = read["familiarity"]
    return Answers(
        [],
        np.zeros(read.height, np.int32),
        deepest.to_numpy()[:, None],
        None if familiarity.null_count() else familiarity.cast(pl.Float32).to_numpy(),
    )
