"""What a retrain leaves for people: MLflow runs with figures and tables, and the facts behind the report.

Shapes results; the registry module writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.project import Project
from tasks.promotion.registry import CandidateRun, Registry
from tasks.records import Cleaned, Policy, Retrained
from tasks.student.calibration import reliability
from tasks.student.certifying import CalibrationSample, path_as_dict
from tasks.student.evaluation import confused_pairs
from tasks.student.figures import confusion_figure, escalation_figure, reliability_figure
from tasks.student.retrain import Trained, flat_metrics
from tasks.student.thresholds import Certificate, escalation_table


def registry_of(project: Project) -> Registry:
    """The project's experiment and registered model."""
    return Registry(
        project.tracking_uri, project.experiment, project.project, project.home / "var" / "mlartifacts"
    )


def evaluation_rows(trained: Trained) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(true leaf, answered leaf, confidence) of the rows the student is judged on."""
    index = trained.student.taxonomy.leaf_index
    if trained.gold is not None and trained.gold.role("evaluation").any():
        rows = trained.gold.role("evaluation")
        truth = np.array([index[label] for label in trained.gold.frame["label"].to_list()], np.int64)[rows]
        answers = trained.gold.answers
        return truth, answers.leaf[rows].astype(np.int64), answers.confidence[rows]
    truth = np.array([index[label] for label in trained.held_out.truth], np.int64)
    return truth, trained.held_out.answers.leaf.astype(np.int64), trained.held_out.answers.confidence


def parent_run(
    project: Project,
    trained: Trained,
    policy: Policy,
    certificate: Certificate | None,
    sample: CalibrationSample | None,
    record: Retrained,
    cleaned: Cleaned,
) -> CandidateRun:
    """The retrain itself: what it was given, what came out, the figures of its winner."""
    levels = trained.student.levels
    truth, answered, confidence = evaluation_rows(trained)
    figures: dict[str, Any] = {
        f"confusion-{level}.png": confusion_figure(
            nodes[truth], nodes[answered], [name.split(" > ")[-1] for name in names], level
        )
        for level, nodes, names in zip(levels.names, levels.maps, trained.student.taxonomy.nodes, strict=True)
    }
    figures["calibration.png"] = reliability_figure(reliability(confidence, truth == answered))
    if certificate is not None and sample is not None:
        figures["escalation.png"] = escalation_figure(certificate, sample.against)
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
    metrics = dict(record.metrics) | {
        "certified_coverage": policy.certified_coverage,
        "calibration_items": float(policy.calibration_items),
        "temperature": trained.student.temperature,
        "noise_estimate": cleaned.noise_estimate,
        "labels_overwritten": float(cleaned.levels[levels.names[-1]]["share"]),
    }
    metrics |= {f"teacher.{name}": value for name, value in record.teacher.items()}
    for level, value in (policy.thresholds or {}).items():
        metrics[f"threshold.{level}"] = value
    return CandidateRun(
        f"retrain, {trained.student.kind} wins", parameters, metrics, figures, {"against": policy.against}
    )


def candidate_runs(trained: Trained, record: Retrained) -> list[CandidateRun]:
    """One nested run a candidate, and one for the winner trained without cleaning."""
    runs = []
    for candidate in trained.candidates:
        metrics = dict(record.candidates[candidate.name]) | {"out_of_fold_log_loss": candidate.loss}
        labels = "raw" if candidate.name == "raw labels" else "cleaned"
        name = f"{trained.student.kind}, before cleaning" if labels == "raw" else candidate.name
        runs.append(
            CandidateRun(name, dict(candidate.settings) | {"labels": labels}, metrics, {}, {"labels": labels})
        )
    return runs


def tables(trained: Trained) -> dict[str, Mapping[str, Sequence[Any]]]:
    """The escalation table and the most frequent mistakes, as columns."""
    truth, answered, confidence = evaluation_rows(trained)
    leaves = trained.student.taxonomy.leaves
    never = np.array([leaves[leaf] == trained.student.taxonomy.other for leaf in answered.tolist()], bool)
    rows = escalation_table(np.where(never, -1.0, confidence), truth != answered)
    pairs = confused_pairs(truth, answered)
    return {
        "escalation.json": {
            "threshold": [row.threshold for row in rows],
            "escalated": [row.escalated for row in rows],
            "accuracy": [row.accuracy if row.answered else None for row in rows],
            "answered": [row.answered for row in rows],
        },
        "confused_pairs.json": {
            "true": [leaves[true] for true, _, _ in pairs],
            "answered": [leaves[given] for _, given, _ in pairs],
            "count": [count for _, _, count in pairs],
        },
    }


def retrain_facts(
    trained: Trained, sample: CalibrationSample | None, certificate: Certificate | None, cleaned: Cleaned
) -> dict[str, Any]:
    """Everything the report draws and `flywheel thresholds` certifies on, as plain values."""
    truth, answered, confidence = evaluation_rows(trained)
    bins = reliability(confidence, truth == answered)
    drawn = tables(trained)
    return {
        "judged_on": trained.judged_on,
        "student_kind": trained.student.kind,
        "levels": list(trained.student.taxonomy.levels),
        "leaves": list(trained.student.taxonomy.leaves),
        "true": truth.tolist(),
        "answered": answered.tolist(),
        "reliability": {
            "confidence": bins.confidence.tolist(),
            "accuracy": bins.accuracy.tolist(),
            "items": bins.items.tolist(),
        },
        "escalation": drawn["escalation.json"],
        "confused_pairs": drawn["confused_pairs.json"],
        "scores": {name: flat_metrics(scores, trained.judged_on) for name, scores in trained.scores.items()},
        "cleaning": cleaned.as_dict(),
        "curve": [asdict(point) for point in certificate.curve] if certificate else [],
        "path": path_as_dict(trained.path),
        "sample": None if sample is None else _sample_facts(sample, trained.student.taxonomy.other),
    }


def _sample_facts(sample: CalibrationSample, other: str | None) -> dict[str, Any]:
    """The sample that certified; confidences in the fewest digits that give the same float32 again."""
    return {
        "against": sample.against,
        "cross_fitted": sample.cross_fitted,
        "confidences": [[float(str(value)) for value in row] for row in sample.answers.confidences],
        "wrong": sample.wrong.tolist(),
        "never": [label == other for label in sample.answers.labels],
    }
