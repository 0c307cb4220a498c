"""Everything the report says, as plain values: read from the database and from what retrains left behind.

Computes; words and pictures are the report's business. An empty project gives empty facts, never an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import func, select

from tasks.labeling.consensus import agreement
from tasks.labeling.labelling import asking
from tasks.labeling.ledger import current_answers
from tasks.monitoring.audited import Audited, Share, audited_error, share_of
from tasks.monitoring.cost import Spending, spending
from tasks.monitoring.inventory import (
    Inventory,
    Lease,
    RunLine,
    audits_owed,
    lease_of,
    run_lines,
    take_inventory,
)
from tasks.monitoring.serving import versions_in_charge
from tasks.project import Project
from tasks.records import Policy
from tasks.store import Store, schema
from tasks.store.policies import policy_in_force
from tasks.store.traffic import tier_counts

MIN_MENTIONS = 5  # labels said less often are not called the least agreed on
LEAST_AGREED = 10


@dataclass(frozen=True)
class Turn:
    """The requests of one run by the tier that answered them."""

    run_id: int | None
    job: str
    at: float
    tiers: Mapping[str, int]
    cost_usd: float

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(self.tiers.values())


@dataclass(frozen=True)
class PassAgreement:
    """How far the teacher's passes agree on the items that all of them labelled.

    `least` holds the labels they agree on least: label, share of the items for which any pass said it and all
    did, and how many items that is.
    """

    items: int
    share: float | None
    kappa: float | None
    by_level: Mapping[str, float]
    least: tuple[tuple[str, float, int], ...]


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


@dataclass(frozen=True)
class ReportFacts:
    """All of it. `shown` is the version the details are about: the champion, else the newest one."""

    project: str
    modality: str
    made_at: float
    target_error: float
    confidence: float
    audit_rate: float
    teacher_model: str
    inventory: Inventory
    agreement: PassAgreement
    spending: Spending
    turns: tuple[Turn, ...]
    audited: Audited
    audits_owed: int
    champion: str | None
    challenger: str | None
    shown: TrainedVersion | None
    newest: TrainedVersion | None
    policies: tuple[PolicyLine, ...]
    versions: tuple[VersionLine, ...]
    runs: tuple[RunLine, ...]
    lease: Lease | None

    @property
    def requests(self) -> int:
        """Routed so far."""
        return sum(turn.requests for turn in self.turns)

    @property
    def tiers(self) -> dict[str, int]:
        """Requests by tier over all turns."""
        totals: dict[str, int] = {}
        for turn in self.turns:
            for tier, count in turn.tiers.items():
                totals[tier] = totals.get(tier, 0) + count
        return totals


def report_facts(project: Project, store: Store, now: float | None = None) -> ReportFacts:
    """Read how the wheel stands.

    Args:
        project: its settings.
        store: its open database.
        now: seconds since 1970; None is the clock's.

    Raises:
        FlywheelError: the taxonomy or the gold file is wrong.
    """
    now = time.time() if now is None else now
    champion, challenger = versions_in_charge(project)
    newest = newest_version(project.root)
    shown = _version(project, store, champion) if champion else None
    latest = shown if newest == champion else _version(project, store, newest)
    runs = run_lines(store)
    return ReportFacts(
        project=project.project,
        modality=project.task.modality,
        made_at=now,
        target_error=project.routing.target_error,
        confidence=project.routing.confidence,
        audit_rate=project.routing.audit_rate,
        teacher_model=project.teacher.model,
        inventory=take_inventory(project, store),
        agreement=_agreement(project, store),
        spending=spending(store, project.teacher.model, project.teacher.passes, now),
        turns=traffic_turns(store, runs),
        audited=audited_error(store, project.routing.audit_window_days, now),
        audits_owed=audits_owed(store),
        champion=champion,
        challenger=challenger,
        shown=shown or latest,
        newest=latest,
        policies=_policies(store, champion),
        versions=_versions(runs, project.taxonomy.levels, champion, challenger),
        runs=tuple(runs),
        lease=lease_of(store, now),
    )


def newest_version(root: Path) -> str | None:
    """The highest version that a retrain left its facts of."""
    found = [file.stem for file in (root / "retrains").glob("*.json") if file.stem.isdigit()]
    return max(found, key=int, default=None)


def traffic_turns(store: Store, runs: Sequence[RunLine]) -> tuple[Turn, ...]:
    """Requests by run, the oldest first."""
    columns = schema.traffic.c
    first = dict(
        store.read(
            select(columns.run_id, func.min(columns.at).label("at")).group_by(columns.run_id)
        ).iter_rows()
    )
    jobs = {run.id: run for run in runs}
    turns = []
    for (run_id,), rows in tier_counts(store).group_by("run_id", maintain_order=True):
        run = jobs.get(run_id)  # type: ignore[call-overload]
        turns.append(
            Turn(
                run_id,  # type: ignore[arg-type]
                run.job if run else "route",
                run.started_at if run else first[run_id],
                dict(rows.select("tier", "requests").iter_rows()),
                float(rows["cost_usd"].sum()),
            )
        )
    return tuple(sorted(turns, key=lambda turn: turn.at))


def _agreement(project: Project, store: Store) -> PassAgreement:
    teacher, taxonomy = project.teacher, project.taxonomy
    version = asking(taxonomy, project.task.instructions, project.task.modality, teacher).version
    answers = current_answers(store, version).select("key", "pass", "label")
    found = agreement(answers, teacher.passes, taxonomy.levels)
    said = answers.filter(pl.col("label").is_not_null()).unique(["key", "label"])
    mentions = dict(said.group_by("label").len().iter_rows())
    doubted = [
        (label, share, mentions[label])
        for label, share in found.by_label.items()
        if share < 1 and mentions[label] >= MIN_MENTIONS
    ]
    least = tuple(sorted(doubted, key=lambda row: (row[1], -row[2], row[0]))[:LEAST_AGREED])
    return PassAgreement(found.items, found.share, found.kappa, dict(found.by_level), least)


def _version(project: Project, store: Store, version: str | None) -> TrainedVersion | None:
    """What a version's retrain left, or None where it left nothing readable."""
    if version is None:
        return None
    try:
        facts = json.loads((project.root / "retrains" / f"{version}.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None  # derived: the next retrain writes it again
    return trained_version(facts, version, policy_in_force(store, version))


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


def _policies(store: Store, champion: str | None) -> tuple[PolicyLine, ...]:
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


def _versions(
    runs: Sequence[RunLine], levels: Sequence[str], champion: str | None, challenger: str | None
) -> tuple[VersionLine, ...]:
    """Every version a run trained, the newest first; a run's own result is small, unlike a retrain's facts."""
    gates: dict[str, str] = {}
    for run in reversed(runs):
        said = run.result.get("promote") or {}
        if said.get("challenger_version") is not None:
            verdict = "promoted" if said["promoted"] else "refused"
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
