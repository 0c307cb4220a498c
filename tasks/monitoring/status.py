"""How a project stands, in a moment and on a terminal: counts, who serves, what ran last, what is owed.

Cheap: no model is loaded, and MLflow only where there is a registry to ask.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select

from tasks.labeling.batch_book import what_waits
from tasks.monitoring.adjudicated import adjudicated_lines, adjudicated_traffic
from tasks.monitoring.inventory import audits_owed, lease_of, run_lines, take_inventory
from tasks.monitoring.serving import versions_in_charge
from tasks.monitoring.wording import TIERS, dollars, percent, without_teacher
from tasks.project import Project
from tasks.store import Store, schema
from tasks.store.policies import policy_in_force
from tasks.store.traffic import DAY_SECONDS, tier_counts

RECENT_DAYS = 30.0


def status(project: Project, store: Store, now: float | None = None) -> dict[str, Any]:
    """How the project stands, as JSON-able values.

    Args:
        project: its settings.
        store: its open database.
        now: seconds since 1970; None is the clock's.

    Raises:
        FlywheelError: the taxonomy or the gold file is wrong.
    """
    now = time.time() if now is None else now
    inventory = take_inventory(project, store)
    champion, challenger = versions_in_charge(project)
    policy = policy_in_force(store, champion) if champion else None
    calls = schema.calls.c
    spent = select(func.sum(calls.cost_usd))
    recent = spent.where(calls.at >= now - RECENT_DAYS * DAY_SECONDS)
    tiers: dict[str, int] = {}
    for tier, requests in tier_counts(store).select("tier", "requests").iter_rows():
        tiers[tier] = tiers.get(tier, 0) + requests
    lease, waiting = lease_of(store, now), what_waits(store)
    adjudicated = adjudicated_traffic(project.root, store, champion, project.taxonomy)
    return {
        "project": project.project,
        "items": inventory.items,
        "labelled": dict(inventory.labelled),
        "unlabelled": inventory.unlabelled,
        "awaiting_review": sum(inventory.awaiting.values()),
        "awaiting_review_because": dict(inventory.awaiting),
        "gold_rows": inventory.gold_rows,
        "partial": inventory.partial,
        "synthetic": inventory.synthetic,
        "champion": None
        if champion is None
        else {
            "version": champion,
            "policy_id": policy.id if policy else None,
            "certified_coverage": policy.certified_coverage if policy else 0.0,
            "partial_coverage": policy.partial_coverage if policy else 0.0,
            "against": policy.against if policy else "none",
            "target_error": policy.target_error if policy else project.routing.target_error,
        },
        "challenger_version": challenger if challenger != champion else None,
        "runs": _last_runs(store, now),
        "cost_usd": round(float(store.scalar(spent) or 0.0), 6),
        "cost_usd_last_30_days": round(float(store.scalar(recent) or 0.0), 6),
        "costs": _costs(store),
        "tiers": tiers,
        "audits_owed": audits_owed(store),
        "adjudicated": adjudicated.as_dict() if adjudicated else None,
        "open_batches": {
            "count": waiting.batches,
            "requests": waiting.requests,
            "items": waiting.items,
            "oldest_seconds": None
            if waiting.oldest_at is None
            else round(max(0.0, now - waiting.oldest_at), 1),
        },
        "lease": None
        if lease is None
        else {"owner": lease.owner, "silent_seconds": round(lease.silent_seconds, 1), "stale": lease.stale},
    }


def _last_runs(store: Store, now: float) -> dict[str, dict[str, Any]]:
    """The last run of each job, the newest first."""
    runs = schema.runs.c
    newest = store.read(select(runs.job, func.max(runs.id).label("id")).group_by(runs.job))
    wanted = set(newest["id"].to_list())
    return {
        run.job: {
            "id": run.id,
            "status": run.status,
            "started_at": datetime.fromtimestamp(run.started_at, UTC).isoformat(timespec="seconds"),
            "age_seconds": round(max(0.0, now - run.started_at), 1),
            "outcome": run.outcome,
        }
        for run in run_lines(store)
        if run.id in wanted
    }


def _costs(store: Store) -> list[dict[str, Any]]:
    """stage, model, calls, cost_usd of everything that was paid for, the most expensive first."""
    columns = schema.calls.c
    cost = func.sum(columns.cost_usd)
    query = (
        select(columns.stage, columns.model, func.count().label("calls"), cost.label("cost_usd"))
        .group_by(columns.stage, columns.model)
        .order_by(cost.desc(), columns.stage, columns.model)
    )
    return [{**row, "cost_usd": round(row["cost_usd"], 6)} for row in store.read(query).iter_rows(named=True)]


def render_status(status: dict[str, Any]) -> str:
    """The status as a table for a terminal."""
    labelled, because = status["labelled"], status["awaiting_review_because"]
    total = sum(labelled.values())
    rows: list[tuple[str, str]] = [
        ("items", f"{status['items']:,}"),
        ("labelled", _with(f"{total:,}", [f"{source} {count:,}" for source, count in labelled.items()])),
        ("unlabelled", f"{status['unlabelled']:,}"),
        (
            "awaiting review",
            _with(f"{status['awaiting_review']:,}", [f"{why} {count:,}" for why, count in because.items()]),
        ),
        *([("upper levels", f"kept of {status['partial']:,} of them")] if status["partial"] else []),
        ("gold", f"{status['gold_rows']:,}"),
        *([("synthetic", f"{status['synthetic']:,} examples")] if status["synthetic"] else []),
        ("champion", _champion(status["champion"])),
    ]
    if status["challenger_version"] is not None:
        rows.append(("challenger", f"version {status['challenger_version']} waits for `flywheel promote`"))
    if (batches := status["open_batches"])["count"]:
        rows.append(("open batches", _batches(batches)))
    rows += [
        ("traffic", _traffic(status["tiers"])),
        ("audits owed", f"{status['audits_owed']:,}"),
        *adjudicated_lines(status["adjudicated"]),
        ("spent", f"{dollars(status['cost_usd'])}, {dollars(status['cost_usd_last_30_days'])} in 30 days"),
        *(
            (
                "" if place else "  by stage",
                f"{line['stage']}, {line['model']}: {dollars(line['cost_usd'])}, {line['calls']:,} calls",
            )
            for place, line in enumerate(status["costs"])
        ),
        *((f"last {job}", _run(run)) for job, run in status["runs"].items()),
    ]
    if not status["runs"]:
        rows.append(("last run", "none yet"))
    if status["lease"] is not None:
        lease = status["lease"]
        state = "stale: probably dead, the next run takes over" if lease["stale"] else "working now"
        rows.append(("lease", f"{lease['owner']}, {state} (silent for {_age(lease['silent_seconds'])})"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    return "\n".join([f"project {status['project']}", *lines])


def _with(count: str, parts: Sequence[str]) -> str:
    return f"{count}  ({', '.join(parts)})" if parts else count


def _champion(champion: dict[str, Any] | None) -> str:
    if champion is None:
        return "none yet"
    if champion["policy_id"] is None:
        return f"version {champion['version']}, no policy: it answers nothing"
    share = percent(champion["certified_coverage"])
    if champion["partial_coverage"]:
        share += f" in full and {percent(champion['partial_coverage'])} down to an upper level"
    if not champion["certified_coverage"]:
        return f"version {champion['version']}, policy {champion['policy_id']}: nothing certified, it answers nothing"
    if champion["against"] == "teacher":
        promise = f"agrees with the teacher on all but {percent(champion['target_error'])} of {share}"
    else:
        promise = (
            f"answers {share} at {percent(champion['target_error'])} error, against {champion['against']}"
        )
    return f"version {champion['version']}, policy {champion['policy_id']}: {promise}"


def _traffic(tiers: dict[str, int]) -> str:
    if not tiers:
        return "none yet"
    parts = [f"{TIERS.get(tier, tier)} {tiers[tier]:,}" for tier in [*TIERS] if tier in tiers]
    return _with(f"{sum(tiers.values()):,}, {percent(without_teacher(tiers), 0)} without the teacher", parts)


def _batches(batches: dict[str, Any]) -> str:
    items = f"{batches['items']:,} items in {batches['requests']:,} requests"
    return f"{batches['count']:,}  ({items}, the oldest sent {_age(batches['oldest_seconds'])} ago)"


def _run(run: dict[str, Any]) -> str:
    outcome = f": {run['outcome']}" if run["outcome"] else ""
    return f"{run['status']}, {_age(run['age_seconds'])} ago{outcome}"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
