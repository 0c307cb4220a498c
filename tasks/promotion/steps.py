"""The Prefect steps of promotion: compare champion and challenger, move the aliases, roll back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import TrainingError
from tasks.project import Project
from tasks.records import Policy, Promoted
from tasks.sources import read_gold
from tasks.store import Store, open_store
from tasks.store.items import content_of, read_contents
from tasks.store.labels import effective_labels
from tasks.store.policies import policy_in_force
from tasks.store.traffic import audits

PREDECESSOR = "predecessor"


@task(name="compare and promote", cache_policy=NO_CACHE)
def promote_challenger(project: Project, approved: bool = False, force_reason: str | None = None) -> Promoted:
    """Afterwards the challenger is champion if the gate (and a person, where the project wants one) let it."""
    from tasks.promotion.gate import first_promotion, judge
    from tasks.promotion.tracking import registry_of

    registry, store = registry_of(project), open_store(project.database_url, project.project)
    champion, challenger = registry.alias("champion"), registry.alias("challenger")
    if challenger is None or challenger == champion:
        return Promoted(False, champion, None, ["there is no challenger: `flywheel retrain` makes one"])
    new, new_policy = registry.load(challenger), policy_in_force(store, challenger)
    verified = project.gold is not None
    if champion is None:
        coverage = new_policy.certified_coverage if new_policy else 0.0
        verdict = first_promotion(_scores(project, store, new), coverage, verified)
    else:
        old, old_policy = registry.load(champion), policy_in_force(store, champion)
        samples = _paired(project, store, (old, old_policy), (new, new_policy))
        samples = samples or _held_out(project, champion, challenger, new)
        lapsed = old_policy is None or old_policy.thresholds is None
        verdict = judge(samples, list(new.taxonomy.leaves), project.promotion.margin, lapsed)
    promoted, reasons = verdict.promoted, list(verdict.reasons)
    if force_reason and not promoted:
        promoted, reasons = True, [*reasons, f"forced: {force_reason}"]
    person = approved or bool(force_reason)
    if promoted and project.promotion.approval == "human" and not person:
        promoted = False
        reasons.append("the gate lets it pass; a person must say yes: `flywheel promote --approve`")
    if promoted:
        registry.tag(challenger, {"promoted_at": datetime.now(UTC).isoformat(timespec="seconds")})
        if champion is not None:
            registry.tag(challenger, {PREDECESSOR: champion})
        registry.set_alias("champion", challenger)
        registry.drop_alias("challenger")
    registry.tag(
        challenger, {"gate": "promoted" if promoted else "refused", "gate_reasons": "; ".join(reasons)[:4000]}
    )
    return Promoted(promoted, challenger if promoted else champion, challenger, reasons, verdict.numbers)


@task(name="roll back", cache_policy=NO_CACHE)
def rollback_champion(project: Project) -> dict[str, Any]:
    """Afterwards the champion's predecessor serves again, with the last policy it had.

    Raises:
        TrainingError: there is no champion, or it has no predecessor.
    """
    from tasks.promotion.tracking import registry_of

    registry, store = registry_of(project), open_store(project.database_url, project.project)
    champion = registry.alias("champion")
    if champion is None:
        raise TrainingError("there is no champion to roll back from", "Promote a version first.")
    before = registry.tags(champion).get(PREDECESSOR)
    if before is None:
        raise TrainingError(
            f"version {champion} has no predecessor", "It was the first one; retrain instead."
        )
    registry.load(before)  # a version whose files are gone must not become champion
    registry.set_alias("champion", before)
    registry.tag(champion, {"rolled_back_at": datetime.now(UTC).isoformat(timespec="seconds")})
    policy = policy_in_force(store, before)
    return {
        "champion_version": before,
        "rolled_back_from": champion,
        "policy_id": policy.id if policy else None,
    }


def _scores(project: Project, store: Store, student: Any) -> bool:
    """Whether the student gives a finite probability for some item at hand."""
    contents = read_contents(store).head(1)
    P = student.probabilities(_inputs(project, student, contents))
    return bool(np.isfinite(P).all())


def _inputs(project: Project, student: Any, contents: pl.DataFrame) -> Any:
    from tasks.embedding.vectors import vectors_of

    if student.reads_images:
        return content_of(contents, "image")
    return vectors_of(student.encoder, project.cache_root, contents, student.modality)


def _paired(
    project: Project, store: Store, champion: tuple[Any, Policy | None], challenger: tuple[Any, Policy | None]
) -> list[Any]:
    """Gold's evaluation half and the audits of the same half, each judged by both."""
    from tasks.student.judged import judged_audits, with_roles

    gold = with_roles(read_gold(project)).filter(pl.col("role") == "evaluation")
    watched = audits(store, project.routing.audit_window_days, misses_only=True)
    audited = judged_audits(watched, effective_labels(store))
    audited = audited.filter(pl.col("role") == "evaluation").join(
        read_contents(store), on="key", how="inner", maintain_order="left"
    )
    both = [("gold", gold), ("audited traffic", audited)]
    return [_judge_pair(project, name, rows, champion, challenger) for name, rows in both if rows.height]


def _held_out(project: Project, champion: str, challenger: str, new: Any) -> list[Any]:
    """Without gold and audits: what each said out of fold about the labelled items that both were trained on."""
    from tasks.promotion.gate import Judged

    files = [project.root / "retrains" / f"{version}.heldout.parquet" for version in (champion, challenger)]
    if not all(file.exists() for file in files):
        return []
    before, after = (pl.read_parquet(file) for file in files)
    both = after.join(before, on="key", how="inner", suffix="_before", maintain_order="left")
    if not both.height:
        return []
    places = np.array([new.taxonomy.leaf_index.get(label, -1) for label in both["label"].to_list()], np.int64)
    return [
        Judged(
            "held-out labels (no gold: unverified)",
            places,
            (both["answered_before"] == both["label"]).to_numpy(),
            (both["answered"] == both["label"]).to_numpy(),
            both["covered_before"].to_numpy(),
            both["covered"].to_numpy(),
        )
    ]


def _judge_pair(
    project: Project,
    name: str,
    rows: pl.DataFrame,
    champion: tuple[Any, Policy | None],
    challenger: tuple[Any, Policy | None],
) -> Any:
    from tasks.promotion.gate import Judged
    from tasks.routing.cascade import cleared

    truth = rows["label"].to_list()
    columns = []
    for student, policy in (champion, challenger):
        answers = student.answers(_inputs(project, student, rows))
        thresholds = policy.thresholds if policy else None
        columns.append(np.array([a == b for a, b in zip(answers.labels, truth, strict=True)], bool))
        columns.append(
            np.array(cleared(answers, student.taxonomy.levels, thresholds, student.taxonomy.other), bool)
        )
    index = challenger[0].taxonomy.leaf_index
    places = np.array([index.get(label, -1) for label in truth], np.int64)
    return Judged(name, places, columns[0], columns[2], columns[1], columns[3])
