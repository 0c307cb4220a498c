"""How right student and teacher are on audited traffic, estimated from the few items that were adjudicated.

Reads the plan that the last calibration left and what has been decided since. Each item counts by the probability with
which it came to be judged; where something that was to be judged is open there is no estimate, only how much waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.labeling.adjudicating import decided_labels
from tasks.labeling.adjudication_queue import WANTED, read_plan
from tasks.monitoring.wording import percent
from tasks.store import Store
from tasks.student.prediction_powered import Estimate, prediction_powered_mean
from tasks.taxonomy import Taxonomy


@dataclass(frozen=True)
class Accuracy:
    """Of student and teacher on the same items."""

    student: Estimate
    teacher: Estimate


@dataclass(frozen=True)
class AdjudicatedTraffic:
    """What was adjudicated of the audits that may certify a version.

    Attributes:
        version: of the model.
        items: audited.
        wanted: of them, because student and teacher differ where the student may answer, or by the coin.
        decided: of those.
        waiting: the others where the student may answer; before they are decided nothing is certified by adjudication.
        answered: accuracy where the student answers; None while anything waits.
        traffic: accuracy on all audited items; None while anything wanted is open.
    """

    version: str
    items: int
    wanted: int
    decided: int
    waiting: int
    answered: Accuracy | None
    traffic: Accuracy | None

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary of all fields."""
        return asdict(self)


def adjudicated_traffic(
    root: Path, store: Store, version: str | None, taxonomy: Taxonomy
) -> AdjudicatedTraffic | None:
    """How far the audits of a version are adjudicated, and what that says; None where it has no plan.

    Args:
        root: the folder of everything the project writes.
        store: the open database.
        version: of the model.
        taxonomy: of today.
    """
    plan = read_plan(root, version) if version is not None else pl.DataFrame()
    if version is None or not plan.height:
        return None
    decided = decided_labels(store, plan, taxonomy).rename({"label": "decided"})
    rows = plan.join(decided, on="key", how="left", maintain_order="left")
    wanted = rows.filter(WANTED)
    undecided = wanted.filter(pl.col("decided").is_null())
    waiting = undecided.filter("in_reach").height
    return AdjudicatedTraffic(
        version,
        rows.height,
        wanted.height,
        wanted.height - undecided.height,
        waiting,
        None if waiting else _accuracy(rows.filter("in_reach")),
        None if undecided.height else _accuracy(rows),
    )


def _accuracy(rows: pl.DataFrame) -> Accuracy | None:
    if not rows.height:
        return None
    certain = pl.col("differs") & pl.col("in_reach")
    judged = rows.select(WANTED & pl.col("decided").is_not_null()).to_series().to_numpy()
    probability = rows.select(pl.when(certain).then(1.0).otherwise("share")).to_series().to_numpy()
    agree = (~rows["differs"]).cast(pl.Float64).to_numpy()

    def estimate(said: str) -> Estimate:
        right = (rows[said] == rows["decided"]).fill_null(value=False).cast(pl.Float64).to_numpy()
        return prediction_powered_mean(np.asarray(right), agree, judged, probability)

    return Accuracy(estimate("student_label"), estimate("teacher_label"))


def adjudicated_lines(said: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What `AdjudicatedTraffic.as_dict` says, as named lines for a terminal; none where nothing was audited."""
    if said is None:
        return []
    waiting = f", {said['waiting']:,} wait before anything is certified by them" if said["waiting"] else ""
    lines = [
        (
            "adjudicated",
            f"{said['decided']:,} of {said['wanted']:,} wanted of {said['items']:,} audited items{waiting}",
        )
    ]
    for name, scope in (("answered", "right where it answers"), ("traffic", "right on all traffic")):
        if (accuracy := said[name]) is not None:
            both = ", ".join(f"{who} {_interval(accuracy[who])}" for who in ("student", "teacher"))
            lines.append((f"  {scope}", both))
    return lines


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{percent(estimate['mean'])} ({percent(estimate['low'])} to {percent(estimate['high'])})"
