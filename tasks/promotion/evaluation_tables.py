"""The evaluation of a student as tables, the same for MLflow and for the report.

Shapes what the student room counted; nothing is counted here and nothing written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.student.evaluation import LevelScores
from tasks.student.evaluation_report import EvaluationReport
from tasks.student.retrain import Trained

Table = Mapping[str, Sequence[Any]]


def evaluation_tables(trained: Trained, report: EvaluationReport) -> dict[str, Table]:
    """Columns by table name; a table without rows is left out.

    - `labels.json`: a row a level and label, with precision, recall, F1 and the counts behind them;
    - `confusion.json`: the most frequent mistakes a level;
    - `calibration.json`: bins of stated confidence against accuracy a level;
    - `slices.json`: accuracy at the deepest level by script, length, rarity and columns of gold;
    - `beside_teacher.json`: a row a level, whose mistakes there are;
    - `learning_curve.json`: accuracy on rows that taught and on rows held out;
    - `limits.json`: what mending each of labels, data, head and encoder would bring at most;
    - `candidates.json`: a row a candidate, with its difference to the winner at the deepest level.
    """
    nodes = dict(zip(trained.student.taxonomy.levels, trained.student.taxonomy.nodes, strict=True))
    labels = [(of.level, nodes[of.level][score.node], score) for of in report.levels for score in of.labels]
    pairs = [(of.level, *pair) for of in report.levels for pair in of.confused]
    bins = [
        (of.level, *each)
        for of in report.levels
        for each in zip(of.calibration.confidence, of.calibration.accuracy, of.calibration.items, strict=True)
    ]
    beside = [of.teacher for of in report.levels if of.teacher is not None]
    points = report.curve.points if report.curve is not None else ()
    found: dict[str, Table] = {
        "candidates.json": _candidates(trained, report),
        "labels.json": {
            "level": [level for level, _, _ in labels],
            "label": [name for _, name, _ in labels],
            "items": [score.items for _, _, score in labels],
            "answered": [score.answered for _, _, score in labels],
            "right": [score.right for _, _, score in labels],
            "precision": [_rounded(score.precision) for _, _, score in labels],
            "recall": [_rounded(score.recall) for _, _, score in labels],
            "f1": [_rounded(score.f1) for _, _, score in labels],
        },
        "confusion.json": {
            "level": [level for level, _, _, _ in pairs],
            "true": [nodes[level][true] for level, true, _, _ in pairs],
            "answered": [nodes[level][given] for level, _, given, _ in pairs],
            "count": [count for _, _, _, count in pairs],
        },
        "calibration.json": {
            "level": [level for level, _, _, _ in bins],
            "confidence": [float(confidence) for _, confidence, _, _ in bins],
            "accuracy": [float(accuracy) for _, _, accuracy, _ in bins],
            "items": [int(items) for _, _, _, items in bins],
        },
        "slices.json": {
            "by": [of.by for of in report.slices],
            "value": [of.value for of in report.slices],
            "items": [of.items for of in report.slices],
            "right": [of.right for of in report.slices],
            "accuracy": [_rounded(of.accuracy) for of in report.slices],
            "low": [_rounded(of.interval[0]) for of in report.slices],
            "high": [_rounded(of.interval[1]) for of in report.slices],
        },
        "beside_teacher.json": {
            "level": [of.level for of in beside],
            "items": [of.items for of in beside],
            "both_right": [of.both_right for of in beside],
            "only_teacher_wrong": [of.gained for of in beside],
            "only_student_wrong": [of.own for of in beside],
            "both_wrong_alike": [of.same for of in beside],
            "both_wrong_differently": [of.different for of in beside],
            "difference": [_rounded(of.difference[0]) for of in beside],
            "low": [_rounded(of.difference[1]) for of in beside],
            "high": [_rounded(of.difference[2]) for of in beside],
        },
        "learning_curve.json": {
            "rows": [point.rows for point in points],
            "taught": [_rounded(point.taught) for point in points],
            "held_out": [_rounded(point.held_out) for point in points],
        },
        "limits.json": {
            "cause": list(report.limit.shares),
            "at_most": [_rounded(share) for share in report.limit.shares.values()],
            "why": [report.limit.why[cause] for cause in report.limit.shares],
        },
    }
    return {name: table for name, table in found.items() if len(next(iter(table.values())))}


def level_metrics(scores: Sequence[LevelScores], judged_on: str) -> dict[str, float]:
    """`gold.LEVEL.ece` a level: what a candidate's run has beside its flat metrics."""
    return {f"{judged_on}.{of.level}.ece": round(float(of.ece), 6) for of in scores}


def report_metrics(report: EvaluationReport) -> dict[str, float]:
    """`limit.CAUSE`, `mistakes.LEVEL.KIND` and `learning_curve.*` as shares; what is unknown is left out.

    MLflow draws by the alphabet: these stand below what candidates are compared by.
    """
    metrics = {f"limit.{cause}": share for cause, share in report.limit.shares.items()}
    for of in report.levels:
        if of.teacher is not None:
            metrics[f"mistakes.{of.level}.difference"] = of.teacher.difference[0]
            metrics[f"mistakes.{of.level}.same"] = of.teacher.same / of.teacher.items
            metrics[f"mistakes.{of.level}.own"] = of.teacher.own / of.teacher.items
            metrics[f"mistakes.{of.level}.gained"] = of.teacher.gained / of.teacher.items
    if report.curve is not None:
        last = report.curve.points[-1]
        metrics |= {
            "learning_curve.taught": last.taught,
            "learning_curve.held_out": last.held_out,
            "learning_curve.doubling": report.curve.doubling,
        }
    return {name: round(float(value), 6) for name, value in metrics.items()}


def _candidates(trained: Trained, report: EvaluationReport) -> Table:
    names = list(trained.scores)
    losses = {candidate.name: candidate.loss for candidate in trained.candidates}
    table: dict[str, list[Any]] = {"candidate": names}
    for depth, level in enumerate(trained.student.taxonomy.levels):
        table[f"{level} top 1"] = [_rounded(trained.scores[name][depth].top1) for name in names]
    deepest = [trained.scores[name][-1] for name in names]
    against = [report.against.get(name, (0.0, 0.0, 0.0)) for name in names]
    return table | {
        "top 3": [_rounded(of.top3) for of in deepest],
        "macro F1": [_rounded(of.macro_f1) for of in deepest],
        "calibration error": [_rounded(of.ece) for of in deepest],
        "out-of-fold log-loss": [_rounded(losses[name]) for name in names],
        "to the winner": [_rounded(value) for value, _, _ in against],
        "low": [_rounded(low) for _, low, _ in against],
        "high": [_rounded(high) for _, _, high in against],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
