"""What a version may promise: its policy in force, its escalation table, and what other targets would certify.

Reads what the version's retrain left behind; loads no model. The curve is for choosing the next target: a target
picked because the table looks good there has used up the sample that would prove it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import ConfigError
from tasks.monitoring.serving import versions_in_charge
from tasks.monitoring.versions import newest_version
from tasks.project import Project
from tasks.records import Policy, Record
from tasks.store import Store
from tasks.store.policies import policy_in_force
from tasks.student.certifying import path_from_dict
from tasks.student.intervals import clopper_pearson_upper
from tasks.student.partial import PartialAnswers
from tasks.student.thresholds import Certificate, certify
from tasks.student.weighted_bounds import TwoStage

TARGETS = (0.01, 0.02, 0.03, 0.05, 0.10, 0.15)


@dataclass(frozen=True)
class OperatingPoints(Record):
    """One version's thresholds.

    Attributes:
        version: in the registry.
        role: champion, challenger or empty.
        policy: in force for it; its curve is left out.
        judged_on: what the escalation table was measured on: gold, or heldout labels.
        escalation: rows of threshold, escalated, accuracy (None where nothing is answered), answered.
        sample: {against, items, cross_fitted} of the sample its retrain certified on; None where that was not kept.
        coverage: one row a target: target_error, certified_coverage (in full), partial_coverage (at upper levels only),
            thresholds (by level, or None), accepted, errors, upper_bound, more_rows_needed, and the band around what
            could be answered, measured_coverage and coverage_at_most, see `band`.
    """

    version: str
    role: str
    policy: Policy | None
    judged_on: str
    escalation: Sequence[Mapping[str, Any]]
    sample: Mapping[str, Any] | None
    coverage: Sequence[Mapping[str, Any]]


def operating_points(
    project: Project, store: Store, version: str | None = None, targets: Sequence[float] = TARGETS
) -> OperatingPoints | None:
    """The operating points of a version: the one asked for, else the champion, else the newest; None without any.

    Args:
        project: its settings.
        store: its open database.
        version: in the registry.
        targets: error rates to certify for, beside the policy's own.

    Raises:
        ConfigError: the version asked for left nothing behind.
    """
    champion, challenger = versions_in_charge(project)
    chosen = version or champion or newest_version(project.root)
    if chosen is None:
        return None
    file = project.root / "retrains" / f"{chosen}.json"
    facts = _read(file)
    if facts is None and version is not None:
        known = ", ".join(sorted((f.stem for f in file.parent.glob("*.json")), key=_number)) or "none"
        raise ConfigError(
            "command line", f"no retrain of version {version} is kept", f"Known: {known}.", "--version"
        )
    facts = facts or {}
    policy = policy_in_force(store, chosen)
    confidence = policy.confidence if policy else project.routing.confidence
    wanted = [policy.target_error] if policy else []
    role = {challenger: "challenger", champion: "champion"}.get(chosen, "")
    return OperatingPoints(
        version=chosen,
        role=role,
        policy=policy and replace(policy, certificate=_without_curve(policy.certificate)),
        judged_on=facts.get("judged_on", ""),
        escalation=_rows(facts.get("escalation") or {}),
        sample=_sample(facts),
        coverage=coverage_by_target(facts, sorted({*targets, *wanted}), confidence, project.routing.partial),
    )


def coverage_by_target(
    facts: Mapping[str, Any], targets: Sequence[float], confidence: float, partial: bool = False
) -> list[dict[str, Any]]:
    """What each target would certify on the sample of a retrain; empty where that was not kept.

    Args:
        facts: as `tasks.promotion.tracking.retrain_facts` writes them.
        targets: error rates in (0, 1).
        confidence: with which each promise, taken alone, holds.
        partial: whether answers may stop at an upper level.
    """
    sample, path = facts.get("sample"), facts.get("path")
    if not sample or not path:
        return []
    # a retrain of before there was familiarity kept confidences, which then were the scores
    scores = np.asarray(sample.get("scores") or sample["confidences"], np.float32)
    wrong, never = np.asarray(sample["wrong"], bool), np.asarray(sample["never"], bool)
    laid, stopping = path_from_dict(path), None
    if partial and laid.upper is not None and "depths" in sample:
        by_level = np.asarray(sample["wrong_by_level"], bool)
        stopping = PartialAnswers(laid, scores, np.asarray(sample["depths"]), by_level, never)
    rows: list[dict[str, Any]] = []
    judged = sample.get("two_stage")
    two_stage = TwoStage.from_dict(judged) if judged else None
    for target in targets:
        found = certify(laid, scores, wrong, target, confidence, never, two_stage, stopping)
        named = found.thresholds and dict(zip(facts["levels"], found.thresholds, strict=True))
        rows.append(
            {
                "target_error": target,
                "certified_coverage": found.certified_coverage,
                "partial_coverage": found.partial_coverage,
                "thresholds": named,
                "accepted": found.accepted,
                "errors": found.errors,
                "upper_bound": found.upper_bound,
                "more_rows_needed": found.more_rows_needed,
                **band(found, two_stage.worth / len(wrong) if two_stage else 1.0),
            }
        )
    return rows


def band(certificate: Certificate, worth: float = 1.0) -> dict[str, float]:
    """What the curve says of the share that could be answered within the target, beside the share that is certified.

    `measured_coverage` is that of the loosest point whose errors in the sample keep the target: the best guess, and no
    promise. `coverage_at_most` is that of the loosest point whose error is not shown to be above the target, by the
    exact lower bound at the same confidence, each point taken alone. The certified coverage, partial answers included,
    is the lower end of the band, so certified <= measured <= at most.

    Args:
        certificate: with its curve.
        worth: how much a row of a sample tells that was not judged whole, in (0, 1].
    """
    target, allowance = certificate.target_error, 1 - certificate.confidence
    points = [point for point in certificate.curve if point.accepted]
    accepted, errors = (np.array([getattr(p, name) for p in points]) for name in ("accepted", "errors"))
    coverage = np.array([point.coverage for point in points])
    least = 1 - clopper_pearson_upper(worth * np.maximum(accepted - errors, 0), worth * accepted, allowance)
    kept, open_still = errors <= target * accepted, np.where(errors > 0, least, 0.0) <= target
    return {
        "measured_coverage": float(coverage[kept].max(initial=0.0)),
        "coverage_at_most": float(coverage[kept | open_still].max(initial=0.0)),
    }


def _read(file: Path) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # derived: the next retrain writes its own
    return facts


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [
        row
        | {"accuracy": None if row["accuracy"] is None or math.isnan(row["accuracy"]) else row["accuracy"]}
        for row in rows
    ]


def _sample(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    sample = facts.get("sample")
    if not sample:
        return None
    named = {name: sample[name] for name in ("against", "cross_fitted")}
    return named | {"items": len(sample["wrong"])}


def _without_curve(certificate: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in certificate.items() if name != "curve"}


def _number(version: str) -> tuple[int, str]:
    return (int(version) if version.isdigit() else 0, version)
