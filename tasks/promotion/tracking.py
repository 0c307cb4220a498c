"""What a retrain leaves for people: MLflow runs with figures and tables, and the facts behind the report.

Shapes results; the registry module writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tasks.project import Project
from tasks.promotion.evaluation_tables import evaluation_tables, level_metrics, report_metrics
from tasks.promotion.registry import CandidateRun, Registry
from tasks.student.certifying import CalibrationSample, path_as_dict
from tasks.student.challenger import Challenger
from tasks.student.evaluation_figures import (
    beside_teacher_figure,
    candidates_figure,
    cleaning_figure,
    learning_curve_figure,
    slices_figure,
    weakest_labels_figure,
)
from tasks.student.evaluation_report import RAW, judged_answers
from tasks.student.figures import calibration_figure, confusion_figure, escalation_figure
from tasks.student.label_scores import weakest
from tasks.student.retrain import Trained
from tasks.student.thresholds import escalation_table
from tasks.taxonomy import split

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""

MOST_WEAK = 25


def registry_of(project: Project) -> Registry:
    """The project's experiment and registered model."""
    return Registry(
        project.tracking_uri, project.experiment, project.project, project.home / "var" / "mlartifacts"
    )


def parent_run(project: Project, made: Challenger) -> CandidateRun:
    """The retrain itself: what it was given, what came out, all of it in words; its figures are `figures`."""
    trained, report, policy, cleaned = made.trained, made.report, made.policy, made.cleaned
    levels, judged_on = trained.student.levels, trained.judged_on
    parameters = {
        "encoder": project.encoder.model,
        "candidates": ", ".join(project.student.candidates),
        "winner": trained.student.kind,
        "rows": cleaned.snapshot.rows,
        "cleaning": project.cleaning.method,
        "cleaning_margin": cleaned.margin,
        "target_error": policy.target_error,
        "confidence": policy.confidence,
        "taxonomy_version": project.taxonomy.version,
    }
    metrics = made.metrics | level_metrics(trained.winner_scores, judged_on) | report_metrics(report)
    metrics |= {
        "out_of_fold_log_loss": _loss(trained, trained.student.kind),
        "certified_coverage": policy.certified_coverage,
        "calibration_items": float(policy.calibration_items),
        "temperature": trained.student.temperature,
        "noise_estimate": cleaned.noise_estimate,
        "labels_overwritten": float(cleaned.levels[levels.names[-1]]["share"]),
    }
    metrics |= {f"teacher.{name}": value for name, value in made.teacher.items()}
    metrics |= {f"gold.{effect.level}.cleaning_delta": effect.delta[0] for effect in trained.cleaning}
    for level, value in (policy.thresholds or {}).items():
        metrics[f"threshold.{level}"] = value
    tags = {
        "against": policy.against,
        "stage": "retrain",
        "student": trained.student.kind,
        "judged_on": judged_on,
        "limited_by": report.limit.cause or "nothing",
        NOTE: _in_words(made),
    }
    return CandidateRun(trained.student.kind, parameters, metrics, tags=tags)


def candidate_runs(made: Challenger) -> list[CandidateRun]:
    """One nested run a candidate, and one for the winner trained without cleaning; metrics named as the parent's."""
    trained, report, flat = made.trained, made.report, made.candidate_metrics
    runs = []
    for candidate in trained.candidates:
        before = candidate.name == RAW
        kind = trained.student.kind if before else candidate.name
        won = candidate.name == trained.student.kind
        name = kind + (", before cleaning" if before else ", the winner" if won else "")
        metrics = flat[candidate.name] | {"out_of_fold_log_loss": candidate.loss}
        metrics |= level_metrics(trained.scores[candidate.name], trained.judged_on)
        value, low, high = report.against.get(candidate.name, (0.0, 0.0, 0.0))
        metrics |= {"to_winner": value, "to_winner.low": low, "to_winner.high": high}
        labels = "raw" if before else "cleaned"
        tags = {
            "labels": labels,
            "stage": "before cleaning" if before else "candidate",
            "student": kind,
            "winner": str(won).lower(),
        }
        runs.append(CandidateRun(name, dict(candidate.settings) | {"labels": labels}, metrics, {}, tags))
    return runs


def _loss(trained: Trained, name: str) -> float:
    return next(candidate.loss for candidate in trained.candidates if candidate.name == name)


def _shown(name: str, trained: Trained) -> str:
    return f"{trained.student.kind}, before cleaning" if name == RAW else name


def _in_words(made: Challenger) -> str:
    """What stands under a run's name in MLflow, in Markdown: the verdicts, and the candidates level by level."""
    trained, report = made.trained, made.report
    levels, deepest = trained.student.taxonomy.levels, -1
    head = f"| | {' | '.join(levels)} | to the winner, points | calibration error |"
    lines = [head, "|---|" + "---:|" * (len(levels) + 2)]
    for name, scores in trained.scores.items():
        gap = "**the winner**"
        if name in report.against:
            value, low, high = (100 * share for share in report.against[name])
            gap = f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
        shares = " | ".join(f"{of.top1:.1%}" for of in scores)
        lines.append(f"| {_shown(name, trained)} | {shares} | {gap} | {scores[deepest].ece:.1%} |")
    if made.teacher:
        shares = " | ".join(f"{made.teacher[f'gold.{level}.top1']:.1%}" for level in levels)
        lines.append(f"| the teacher, one pass | {shares} | | |")
    by = "gold items" if trained.judged_on == "gold" else "held-out labels"
    judged = f"{trained.winner_scores[deepest].items:,} {by}"
    return "\n\n".join(
        [
            made.policy.sentence,
            report.limit.sentence,
            f"Share right on {judged}, with paired 95 % intervals:",
            "\n".join(lines),
        ]
    )


def figures(made: Challenger) -> dict[str, Any]:
    """Matplotlib figures by file name: confusion, calibration, escalation and what the evaluation draws."""
    trained, report = made.trained, made.report
    taxonomy, levels = trained.student.taxonomy, trained.student.levels
    truth, answers = judged_answers(trained)
    deepest, names = taxonomy.levels[-1], [split(node)[-1] for node in taxonomy.nodes[-1]]
    drawn: dict[str, Any] = {
        f"confusion-{level}.png": confusion_figure(
            nodes[truth], nodes[answers.leaf], [split(node)[-1] for node in named], level
        )
        for level, nodes, named in zip(levels.names, levels.maps, taxonomy.nodes, strict=True)
    }
    drawn["calibration.png"] = calibration_figure({of.level: of.calibration for of in report.levels})
    shown = {_shown(name, trained): scores for name, scores in trained.scores.items()}
    drawn["candidates.png"] = candidates_figure(shown, trained.student.kind, trained.judged_on)
    drawn["labels-weakest.png"] = weakest_labels_figure(
        weakest(report.levels[-1].labels, MOST_WEAK), names, deepest
    )
    if made.certificate is not None and made.sample is not None:
        drawn["escalation.png"] = escalation_figure(made.certificate, made.sample.against)
    if trained.cleaning:
        drawn["cleaning_before_after.png"] = cleaning_figure(trained.cleaning)
    if report.slices:
        drawn["slices.png"] = slices_figure(report.slices, deepest)
    if beside := [of.teacher for of in report.levels if of.teacher is not None]:
        drawn["beside_teacher.png"] = beside_teacher_figure(beside)
    if report.curve is not None:
        drawn["learning_curve.png"] = learning_curve_figure(report.curve)
    return drawn


def candidate_figures(made: Challenger) -> list[dict[str, Any]]:
    """What each of `candidate_runs` takes for what at the deepest level, under the name of the winner's own figure."""
    trained, levels = made.trained, made.trained.student.levels
    truth, _ = judged_answers(trained)
    nodes, deepest = levels.maps[-1], levels.names[-1]
    names = [split(node)[-1] for node in trained.student.taxonomy.nodes[-1]]
    answered = [nodes[trained.answered[candidate.name]] for candidate in trained.candidates]
    return [
        {f"confusion-{deepest}.png": confusion_figure(nodes[truth], said, names, deepest)}
        for said in answered
    ]


def tables(trained: Trained) -> dict[str, Mapping[str, Sequence[Any]]]:
    """The escalation table, as columns."""
    truth, answers = judged_answers(trained)
    never = np.array([label == trained.student.taxonomy.other for label in answers.labels], bool)
    rows = escalation_table(np.where(never, -1.0, answers.scores[:, -1]), truth != answers.leaf)
    return {
        "escalation.json": {
            "threshold": [row.threshold for row in rows],
            "escalated": [row.escalated for row in rows],
            "accuracy": [row.accuracy if row.answered else None for row in rows],
            "answered": [row.answered for row in rows],
        },
    }


def retrain_facts(made: Challenger) -> dict[str, Any]:
    """Everything the report draws and `flywheel thresholds` certifies on, as plain values."""
    trained, report, sample, certificate = made.trained, made.report, made.sample, made.certificate
    truth, answers = judged_answers(trained)
    deepest = report.levels[-1]
    leaves = trained.student.taxonomy.leaves
    return {
        "judged_on": trained.judged_on,
        "student_kind": trained.student.kind,
        "levels": list(trained.student.taxonomy.levels),
        "leaves": list(leaves),
        "true": truth.tolist(),
        "answered": answers.leaf.tolist(),
        "reliability": {
            "confidence": deepest.calibration.confidence.tolist(),
            "accuracy": deepest.calibration.accuracy.tolist(),
            "items": deepest.calibration.items.tolist(),
        },
        "escalation": tables(trained)["escalation.json"],
        "confused_pairs": {
            "true": [leaves[true] for true, _, _ in deepest.confused],
            "answered": [leaves[given] for _, given, _ in deepest.confused],
            "count": [count for _, _, count in deepest.confused],
        },
        "evaluation": {
            name.removesuffix(".json"): table for name, table in evaluation_tables(trained, report).items()
        },
        "curve_of": None
        if report.curve is None
        else {
            "neighbours": report.curve.neighbours,
            "judged": report.curve.judged,
            "rows": report.curve.rows,
        },
        "scores": made.candidate_metrics,
        "cleaning": made.cleaned.as_dict(),
        "cleaning_effect": [asdict(effect) for effect in trained.cleaning],
        "curve": [asdict(point) for point in certificate.curve] if certificate else [],
        "path": path_as_dict(trained.path),
        "sample": None if sample is None else _sample_facts(sample, trained.student.taxonomy.other),
    }


def _sample_facts(sample: CalibrationSample, other: str | None) -> dict[str, Any]:
    """The sample that certified; scores in the fewest digits that give the same float32 again."""
    return {
        "against": sample.against,
        "cross_fitted": sample.cross_fitted,
        "scores": [[float(str(value)) for value in row] for row in sample.answers.scores],
        "depths": sample.answers.depths.tolist(),
        "wrong_by_level": sample.wrong_by_level(sample.answers.scores.shape[1]).tolist(),
        "wrong": sample.wrong.tolist(),
        "never": [label == other for label in sample.answers.labels],
        "two_stage": None if sample.two_stage is None else sample.two_stage.as_dict(),
    }
