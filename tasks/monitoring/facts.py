"""Everything the report says, as plain values: read from the database and from what retrains left behind.

Computes; words and pictures are the report's business. An empty project gives empty facts, never an error.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select

from tasks.labeling.agreement import MIN_MENTIONS, agreement
from tasks.labeling.asking import asking_teacher
from tasks.labeling.batch_book import Waiting, what_waits
from tasks.labeling.ledger import current_answers
from tasks.monitoring.audited import Audited, audited_error
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
from tasks.monitoring.versions import (
    PolicyLine,
    TrainedVersion,
    VersionLine,
    issued_policies,
    newest_version,
    read_version,
    trained_versions,
)
from tasks.project import Project
from tasks.store import Store, schema
from tasks.store.traffic import tier_counts

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
    waiting: Waiting = field(default_factory=Waiting)

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
    shown = read_version(project.root, store, champion) if champion else None
    latest = shown if newest == champion else read_version(project.root, store, newest)
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
        audited=audited_error(store, project.routing.audit_window_days, now, project.taxonomy),
        audits_owed=audits_owed(store),
        champion=champion,
        challenger=challenger,
        shown=shown or latest,
        newest=latest,
        policies=issued_policies(store, champion),
        versions=trained_versions(runs, project.taxonomy.levels, champion, challenger),
        runs=tuple(runs),
        lease=lease_of(store, now),
        waiting=what_waits(store),
    )


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
        run = jobs.get(run_id)
        turns.append(
            Turn(
                run_id,
                run.job if run else "route",
                run.started_at if run else first[run_id],
                dict(rows.select("tier", "requests").iter_rows()),
                float(rows["cost_usd"].sum()),
            )
        )
    return tuple(sorted(turns, key=lambda turn: turn.at))


def _agreement(project: Project, store: Store) -> PassAgreement:
    teacher, taxonomy = project.teacher, project.taxonomy
    version = asking_teacher(project).version
    answers = current_answers(store, version).select("key", "pass", "label")
    found = agreement(answers, teacher.passes, taxonomy.levels)
    least = tuple(row for row in found.least(LEAST_AGREED) if row[2] >= MIN_MENTIONS)
    return PassAgreement(found.items, found.share, found.kappa, dict(found.by_level), least)
