"""The evaluation of a version as its retrain left it: tables for the page, and the figures drawn of them.

Reads the tables of `promotion.evaluation_tables`; counts nothing. A version of an earlier program has none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.taxonomy import split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
MOST_WEAK = 20


@dataclass(frozen=True)
class EvaluationShown:
    """Rows of each table, as `promotion.evaluation_tables` names their columns; empty where there were none."""

    limits: tuple[Row, ...] = ()
    candidates: tuple[Row, ...] = ()
    labels: tuple[Row, ...] = ()
    calibration: tuple[Row, ...] = ()
    slices: tuple[Row, ...] = ()
    beside_teacher: tuple[Row, ...] = ()
    learning_curve: tuple[Row, ...] = ()
    curve_of: Row | None = None

    def labels_of(self, level: str) -> list[Row]:
        """The labels of one level that have judged items, the lowest F1 first."""
        known = [row for row in self.labels if row["level"] == level and row["items"]]
        return sorted(known, key=lambda row: (row["f1"], -row["items"]))


def evaluation_shown(facts: Mapping[str, Any]) -> EvaluationShown:
    """What the facts of a retrain hold of it."""
    tables = facts.get("evaluation", {})
    names = ("limits", "candidates", "labels", "calibration", "slices", "beside_teacher", "learning_curve")
    return EvaluationShown(
        **{name: _rows(tables.get(name, {})) for name in names}, curve_of=facts.get("curve_of")
    )


def figures_of(shown: EvaluationShown, levels: Sequence[str]) -> dict[str, Figure]:
    """`calibration`, `slices`, `labels`, `teacher` and `curve`, those of them that there is something to draw of."""
    from tasks.student import evaluation_figures
    from tasks.student.beside_teacher import BesideTeacher
    from tasks.student.calibration import Reliability
    from tasks.student.figures import calibration_figure
    from tasks.student.label_scores import LabelScore, weakest
    from tasks.student.learning_curve import Curve, CurvePoint
    from tasks.student.slices import Slice

    found: dict[str, Figure] = {}
    if shown.calibration:
        found["calibration"] = calibration_figure(
            {
                level: Reliability(
                    np.array([row["confidence"] for row in shown.calibration if row["level"] == level]),
                    np.array([row["accuracy"] for row in shown.calibration if row["level"] == level]),
                    np.array([row["items"] for row in shown.calibration if row["level"] == level]),
                )
                for level in levels
            }
        )
    if shown.slices:
        slices = [Slice(row["by"], row["value"], row["items"], row["right"]) for row in shown.slices]
        found["slices"] = evaluation_figures.slices_figure(slices, levels[-1])
    if deepest := [row for row in shown.labels if row["level"] == levels[-1]]:
        scores = [
            LabelScore(place, row["items"], row["answered"], row["right"])
            for place, row in enumerate(deepest)
        ]
        names = [split(row["label"])[-1] for row in deepest]
        if weak := weakest(scores, MOST_WEAK):
            found["labels"] = evaluation_figures.weakest_labels_figure(weak, names, levels[-1])
    if shown.beside_teacher:
        found["teacher"] = evaluation_figures.beside_teacher_figure(
            [
                BesideTeacher(
                    row["level"],
                    row["both_right"],
                    row["only_teacher_wrong"],
                    row["only_student_wrong"],
                    row["both_wrong_alike"],
                    row["both_wrong_differently"],
                    (row["difference"], row["low"], row["high"]),
                )
                for row in shown.beside_teacher
            ]
        )
    if shown.learning_curve and shown.curve_of is not None:
        points = tuple(
            CurvePoint(row["rows"], row["taught"], row["held_out"]) for row in shown.learning_curve
        )
        found["curve"] = evaluation_figures.learning_curve_figure(Curve(points, **shown.curve_of))
    return found


def _rows(table: Mapping[str, Sequence[Any]]) -> tuple[Row, ...]:
    return tuple(dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True))
