"""One look at a project: its signals, the alarms that are new, and the jobs they ask for.

Reads the store and the registry's champion; what an alarm says is `drift`'s business, who hears it the flow's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
from sqlalchemy import func, select

from tasks.monitoring.audited import judged_answers
from tasks.monitoring.drift import signals_under
from tasks.monitoring.drift_alarms import Memory, Raised, alarms_to_raise
from tasks.monitoring.drift_audits import audited_error_signal, new_labels_signal
from tasks.monitoring.drift_signals import NIGHTLY, Signal, Terms
from tasks.monitoring.drift_traffic import first_day_of_traffic, traffic_under
from tasks.monitoring.serving import versions_in_charge
from tasks.monitoring.wheel import remember, remembered_state
from tasks.project import Project
from tasks.records import Policy, Record
from tasks.store import Store, schema
from tasks.store.labels import labels_since
from tasks.store.policies import newest_version, policy_in_force

MEMORY = "alarms_raised"
HOUR_SECONDS = 3600.0
NEW_LABELS = "new_labels"


@dataclass(frozen=True)
class Looked(Record):
    """What a look found.

    Attributes:
        at: when, in UTC.
        model_version: that serves; None without a champion, of which nothing but new labels can be said.
        policy_id: in force.
        trained_version: the newest one, which new labels are counted from.
        signals: by name, see `drift.Signal`.
        raised: the job that each new alarm asks for.
    """

    at: str
    model_version: str | None
    policy_id: int | None
    trained_version: str | None
    signals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    raised: Mapping[str, str] = field(default_factory=dict)

    @property
    def alarms(self) -> list[str]:
        """Signals that alarm, whether or not they have been raised before."""
        return [name for name, signal in self.signals.items() if signal["alarms"]]

    @property
    def advised(self) -> str | None:
        """The one job that new alarms of drift ask for, new labels apart: a nightly run recalibrates, too."""
        jobs = {job for name, job in self.raised.items() if name != NEW_LABELS}
        return NIGHTLY if NIGHTLY in jobs else next(iter(jobs), None)


def look(project: Project, store: Store, now: float) -> Looked:
    """All signals, and which of their alarms are new; writes nothing.

    Args:
        project: its settings.
        store: its open database.
        now: seconds since 1970.
    """
    champion, _ = versions_in_charge(project)
    policy = policy_in_force(store, champion) if champion is not None else None
    memory = _memory(store)
    signals = [] if policy is None else _drift(project, store, policy, memory, now)
    trained, at = newest_version(store)
    signals.append(new_labels_signal(labels_since(store, at), project.monitor.new_labels))
    looked = Looked(
        datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        champion,
        policy.id if policy else None,
        trained,
        {signal.name: {name: value for name, value in asdict(signal).items() if name != "name"} for signal in signals},
    )  # fmt: skip
    raised, _ = _new(project, store, looked, memory)
    return replace(looked, raised=raised)


def note_alarms(project: Project, store: Store, looked: Looked) -> None:
    """Afterwards the alarms that the look found new are remembered as raised, and those that ceased as gone."""
    before = _memory(store)
    _, after = _new(project, store, looked, before)
    if after != before:
        remember(store, {name: raised.as_dict() for name, raised in after.items()}, MEMORY)


def _new(project: Project, store: Store, looked: Looked, memory: Memory) -> tuple[dict[str, str], Memory]:
    signals = [Signal(name, **values) for name, values in looked.signals.items()]
    versions = dict.fromkeys(looked.signals, looked.model_version) | {NEW_LABELS: looked.trained_version}
    quiet = project.monitor.quiet_hours * HOUR_SECONDS
    at = datetime.fromisoformat(looked.at).timestamp()
    policy = looked.policy_id or 0
    return alarms_to_raise(signals, memory, versions, policy, at, quiet, _ended_well(store))


def _ended_well(store: Store) -> dict[str, float]:
    """By job, when the newest run that ended well began."""
    columns = schema.runs.c
    rows = store.read(
        select(columns.job, func.max(columns.started_at).label("at"))
        .where(columns.status.in_(("done", "incomplete")))
        .group_by(columns.job)
    )
    return dict(zip(rows["job"], rows["at"], strict=True))


def _drift(project: Project, store: Store, policy: Policy, memory: Memory, now: float) -> list[Signal]:
    terms = Terms(project.monitor.false_alarms, project.monitor.tolerance)
    answers = judged_answers(store, project.routing.audit_window_days, now, project.taxonomy)
    answers = answers.filter(pl.col("tier") == "student")
    before = memory.get("audited_error")
    if (
        before is not None and before.policy != policy.id
    ):  # what was raised about earlier policies is dealt with
        answers = answers.filter(pl.col("policy_id") > before.policy)
    traffic = None if policy.calibration_profile is None else traffic_under(store, policy)
    return [
        audited_error_signal(answers, policy, first_day_of_traffic(store), terms),
        *signals_under(policy, traffic, terms),
    ]


def _memory(store: Store) -> Memory:
    return {name: Raised(**raised) for name, raised in (remembered_state(store, MEMORY) or {}).items()}
