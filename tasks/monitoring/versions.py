"""Model versions as their retrains left them, and every policy that was ever issued.

Reads the files under the project's root and the policies table; which version serves is told by the caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from tasks.monitoring.audited import Share, share_of
from tasks.monitoring.cleaning_report import CleaningReport, cleaning_report
from tasks.monitoring.evaluation_shown import EvaluationShown, evaluation_shown
from tasks.monitoring.inventory import RunLine
from tasks.records import Policy
from tasks.store import Store, schema
from tasks.store.policies import policy_in_force
from tasks.student.retrain_facts import facts_of


@dataclass(frozen=True)
class LevelAccuracy:
    """Top-1 accuracy of one level: the teacher's, the student's before and after cleaning; None where unknown."""

    level: str
    teacher: Share | None
    before: Share | None
    after: Share | None


@dataclass(frozen=True)
class EscalationLine:
    """What one confidence threshold would mean; `accuracy` None where nothing is answered."""

    threshold: float
    escalated: float
    accuracy: float | None
    answered: int


@dataclass(frozen=True)
class TrainedVersion:
    """A model version as its retrain left it, with the policy in force for it now.

    Attributes:
        version: in the registry.
        student: its kind.
        run_id: MLflow's.
        judged_on: gold, or heldout labels where there is no gold.
        levels: from the root down; leaves: paths, in the order that `true` and `answered` index.
        accuracy: one a level.
        ece: calibration error at the deepest level.
        reliability: (mean confidence, accuracy, items) a bin.
        true, answered: leaf indices of the judged items.
        cleaning: by level `{labels, overwritten, share}`; relabelled: (given, new, count), most frequent first.
        cleaned: before and after by level, and what else there is to read about it.
        evaluation: what limits it, label by label, slices, the teacher beside.
    """

    version: str
    student: str
    run_id: str
    judged_on: str
    judged_items: int
    training_rows: int
    levels: tuple[str, ...]
    leaves: tuple[str, ...]
    accuracy: tuple[LevelAccuracy, ...]
    candidates: Mapping[str, Mapping[str, float]]
    ece: float | None
    bottleneck: str
    policy: Policy | None
    escalation: tuple[EscalationLine, ...]
    confused_pairs: tuple[tuple[str, str, int], ...]
    reliability: tuple[tuple[float, float, int], ...]
    true: tuple[int, ...]
    answered: tuple[int, ...]
    cleaning: Mapping[str, Mapping[str, float]]
    relabelled: tuple[tuple[str, str, int], ...]
    noise_estimate: float | None
    suspects: int
    cleaned: CleaningReport = field(default_factory=CleaningReport)
    evaluation: EvaluationShown = field(default_factory=EvaluationShown)


@dataclass(frozen=True)
class PolicyLine:
    """One policy ever issued."""

    id: int
    at: float
    version: str
    against: str
    certified_coverage: float
    calibration_items: int
    target_error: float
    thresholds: Mapping[str, float] | None
    in_force: bool


@dataclass(frozen=True)
class VersionLine:
    """One trained version: its deepest-level accuracy where known, its role and what the gate said."""

    version: str
    at: float
    student: str
    judged_on: str
    top1: float | None
    role: str
    gate: str


def newest_version(root: Path) -> str | None:
    """The highest version that a retrain left its facts of."""
    found = [file.stem for file in (root / "retrains").glob("*.json") if file.stem.isdigit()]
    return max(found, key=int, default=None)


def read_version(root: Path, store: Store, version: str | None) -> TrainedVersion | None:
    """What a version's retrain left, or None where it left nothing readable."""
    if version is None:
        return None
    facts = facts_of(root, version)
    return trained_version(facts, version, policy_in_force(store, version)) if facts is not None else None


def trained_version(facts: Mapping[str, Any], version: str, policy: Policy | None) -> TrainedVersion:
    """The facts a retrain wrote, as typed values.

    Args:
        facts: as `tasks.student.steps` writes them: `tracking.retrain_facts` and, under `record`, `Retrained`.
        version: in the registry.
        policy: in force for it.
    """
    record, cleaning = facts["record"], facts["cleaning"]
    leaves, escalation, pairs, bins = (
        facts[name] for name in ("leaves", "escalation", "confused_pairs", "reliability")
    )
    lines = zip(*(escalation[c] for c in ("threshold", "escalated", "accuracy", "answered")), strict=True)
    return TrainedVersion(
        version=version,
        student=facts["student_kind"],
        run_id=record["run_id"],
        judged_on=facts["judged_on"],
        judged_items=len(facts["true"]),
        training_rows=record["snapshot"]["rows"],
        levels=tuple(facts["levels"]),
        leaves=tuple(leaves),
        accuracy=tuple(_level_accuracy(facts, level) for level in facts["levels"]),
        candidates=facts["scores"],
        ece=record["metrics"].get("ece"),
        bottleneck=record["bottleneck"],
        policy=policy,
        escalation=tuple(
            EscalationLine(threshold, escalated, accuracy if answered else None, answered)
            for threshold, escalated, accuracy, answered in lines
        ),
        confused_pairs=tuple(zip(pairs["true"], pairs["answered"], pairs["count"], strict=True)),
        reliability=tuple(zip(bins["confidence"], bins["accuracy"], bins["items"], strict=True)),
        true=tuple(facts["true"]),
        answered=tuple(facts["answered"]),
        cleaning=cleaning["levels"],
        relabelled=tuple((given, new, count) for given, new, count in cleaning["confused_pairs"]),
        noise_estimate=cleaning["noise_estimate"],
        suspects=cleaning["suspects"],
        cleaned=cleaning_report(facts),
        evaluation=evaluation_shown(facts),
    )


def _level_accuracy(facts: Mapping[str, Any], level: str) -> LevelAccuracy:
    record, name = facts["record"], f"{facts['judged_on']}.{level}.top1"
    items, teacher = len(facts["true"]), record["teacher"]

    def share(metrics: Mapping[str, float], metric: str, rows: int) -> Share | None:
        return share_of(round(metrics[metric] * rows), rows) if rows and metric in metrics else None

    before = share(record["before_cleaning"], name, items) if "raw labels" in facts["scores"] else None
    return LevelAccuracy(
        level,
        share(teacher, f"gold.{level}.top1", int(teacher.get("rows", 0))),
        before,
        share(record["metrics"], name, items),
    )


def issued_policies(store: Store, champion: str | None) -> tuple[PolicyLine, ...]:
    """Every policy, the newest first; in force is the newest one of the champion."""
    columns = schema.policies.c
    rows = store.read(select(columns.id, columns.at, columns.body).order_by(columns.id.desc()))
    issued = [(row["id"], row["at"], json.loads(row["body"])) for row in rows.iter_rows(named=True)]
    in_force = next((number for number, _, body in issued if body["model_version"] == champion), None)
    return tuple(
        PolicyLine(
            number,
            at,
            body["model_version"],
            body["against"],
            body["certified_coverage"],
            body["calibration_items"],
            body["target_error"],
            body["thresholds"],
            number == in_force,
        )
        for number, at, body in issued
    )


def trained_versions(
    runs: Sequence[RunLine], levels: Sequence[str], champion: str | None, challenger: str | None
) -> tuple[VersionLine, ...]:
    """Every version a run trained, the newest first; a run's own result is small, unlike a retrain's facts."""
    gates: dict[str, str] = {}
    for run in reversed(runs):
        said = run.result.get("promote") or {}
        if said.get("challenger_version") is not None:
            verdict = "waits" if said.get("waiting") else "promoted" if said["promoted"] else "refused"
            gates[said["challenger_version"]] = f"{verdict}: {'; '.join(said['reasons'])}"
    lines = []
    for run in runs:
        trained = run.result.get("retrain")
        if not trained:
            continue
        version, metrics = trained["model_version"], trained["metrics"]
        judged_on = "gold" if f"gold.{levels[-1]}.top1" in metrics else "heldout"
        role = "champion" if version == champion else "challenger" if version == challenger else ""
        lines.append(
            VersionLine(
                version,
                run.started_at,
                trained["student"],
                judged_on,
                metrics.get(f"{judged_on}.{levels[-1]}.top1"),
                role,
                gates.get(version, ""),
            )
        )
    return tuple(lines)
