"""The Prefect steps of promotion: compare champion and challenger, ask and hear a person, move the alias, roll back."""

from __future__ import annotations

import getpass
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import TrainingError
from tasks.monitoring.bench import single_item_latency, stored_contents
from tasks.project import Project
from tasks.promotion.approval import (
    APPROVED,
    EXPIRED,
    REJECTED,
    STATE,
    UNTIL,
    WAITING,
    answer_tags,
    asked_by,
    asking_tags,
    close_older_questions,
    outcome_tags,
    refused,
    standing,
)
from tasks.promotion.champions import delete_oldest, make_champion, roll_back
from tasks.promotion.gate import Judged, Verdict, first_promotion, judge, succession, within_latency
from tasks.promotion.gate_in_words import tags_in_words
from tasks.promotion.registry import CHALLENGER, CHAMPION, Registry
from tasks.promotion.tracking import registry_of
from tasks.records import Policy, Promoted
from tasks.routing.cascade import cleared
from tasks.sources import read_gold
from tasks.store import Store, open_store
from tasks.store.items import newest_items, read_contents
from tasks.store.moved import current_labels, today, today_or_then
from tasks.store.policies import policy_in_force
from tasks.store.traffic import audits
from tasks.student.judged import judged_audits, with_roles

LATENCY_ITEMS = 200


@task(name="compare and promote", cache_policy=NO_CACHE)
def promote_challenger(
    project: Project, approved: bool = False, force_reason: str | None = None, ask_again: bool = False
) -> Promoted:
    """Afterwards the challenger serves if the gate (and a person, where the project wants one) let it.

    What was found stands as tags on the version either way. Who was asked about it and has not answered, or said no, is
    not asked a second time.

    Args:
        project: its settings.
        approved: a person's yes, given beforehand.
        force_reason: promote against the gate, or against silence; not what does not load or score.
        ask_again: compare anew even where a person was asked before.
    """
    registry, store, now = registry_of(project), open_store(project.database_url, project.project), _now()
    champion, challenger = registry.alias(CHAMPION), registry.alias(CHALLENGER)
    if challenger is None or challenger == champion:
        return Promoted(False, champion, None, ["there is no challenger: `flywheel retrain` makes one"])
    close_older_questions(registry, challenger, now)
    if not (approved or force_reason or ask_again):
        tags = registry.tags(challenger)
        if (known := standing(tags, champion, now)) is not None:
            if tags[STATE] == WAITING and now >= datetime.fromisoformat(tags[UNTIL]):
                silence = answer_tags(EXPIRED, "nobody", known.reasons[0], now)
                registry.tag(challenger, outcome_tags(known) | silence)
            return known
    verdict, usable = _verdict(project, store, registry, champion, challenger)
    promoted, reasons = verdict.promoted, list(verdict.reasons)
    forced = force_reason is not None and usable and not promoted
    if forced:
        promoted, reasons = True, [*reasons, f"forced: {force_reason}"]
    by_person = approved or force_reason is not None
    waiting = promoted and project.promotion.approval == "human" and not by_person
    if waiting:
        reasons.append(
            "the gate lets it pass; a person must say yes: in the Prefect UI, where promote runs as a deployment, "
            "or by `flywheel promote --approve`"
        )
    promoted = promoted and not waiting
    outcome = Promoted(
        promoted,
        challenger if promoted else champion,
        challenger,
        reasons,
        verdict.numbers,
        champion,
        waiting,
    )
    tags = outcome_tags(outcome) | tags_in_words(outcome.numbers)
    if promoted and by_person:
        how = "--force" if force_reason is not None else "--approve"
        tags |= answer_tags(APPROVED, f"{_user()}, by {how}", force_reason or "none given", now)
    if forced:
        tags |= {"forced": str(force_reason)}
    registry.tag(challenger, tags)
    return _carried_out(project, registry, outcome, now)


@task(name="say who is asked", cache_policy=NO_CACHE)
def note_question(project: Project, outcome: Promoted, run: str) -> None:
    """Afterwards the version says which run asks a person about it, and until when."""
    tags = asking_tags(run, _now(), project.promotion.approval_hours)
    registry_of(project).tag(str(outcome.challenger_version), tags)


@task(name="look for an open question", cache_policy=NO_CACHE)
def open_question(project: Project, run: str) -> Promoted | None:
    """What this very run asked a person about before it was suspended, if that still stands."""
    registry = registry_of(project)
    challenger = registry.alias(CHALLENGER)
    if challenger is None:
        return None
    return asked_by(registry.tags(challenger), run, registry.alias(CHAMPION))


@task(name="do what the person said", cache_policy=NO_CACHE)
def answer_challenger(project: Project, asked: Promoted, approve: bool, by: str, reason: str) -> Promoted:
    """Afterwards the challenger serves, or is refused, as a person decided about this comparison.

    Another challenger or champion than those compared makes the answer void, which is said.
    """
    registry, now = registry_of(project), _now()
    champion, challenger = registry.alias(CHAMPION), registry.alias(CHALLENGER)
    if challenger != asked.challenger_version or champion != asked.compared_with:
        pair = f"version {asked.challenger_version} after {asked.compared_with or 'none'}"
        said = f"the answer was about {pair}, which is no longer the question: start promote again"
        return Promoted(False, champion, challenger, [said], compared_with=champion)
    if approve:
        why = [*asked.reasons[:-1], f"{by} says yes: {reason}"]  # the last one was that a person must
        outcome = replace(asked, promoted=True, waiting=False, champion_version=challenger, reasons=why)
    else:
        outcome = refused(asked, by, reason)
    state = APPROVED if approve else REJECTED
    registry.tag(str(challenger), outcome_tags(outcome) | answer_tags(state, by, reason, now))
    return _carried_out(project, registry, outcome, now)


@task(name="roll back", cache_policy=NO_CACHE)
def rollback_champion(project: Project) -> dict[str, Any]:
    """Afterwards the champion's predecessor serves again, with the last policy it had.

    Raises:
        TrainingError: there is no champion, it has no predecessor, or that one's files are gone.
    """
    registry, store = registry_of(project), open_store(project.database_url, project.project)
    version, before = roll_back(registry, _now())
    policy, left = policy_in_force(store, version), policy_in_force(store, before)
    return {
        "champion_version": version,
        "rolled_back_from": before,
        "policy_id": policy.id if policy else None,
        "policy_before": left.id if left else None,
        "certified_coverage": policy.certified_coverage if policy else 0.0,
        "sentence": policy.sentence
        if policy
        else "It has no policy: it answers nothing until `flywheel recalibrate`.",
    }


def _carried_out(project: Project, registry: Registry, outcome: Promoted, now: datetime) -> Promoted:
    """The alias moved where the outcome says so, and what need not be kept any longer deleted."""
    if outcome.waiting:
        return outcome
    if outcome.promoted:
        make_champion(registry, str(outcome.challenger_version), "; ".join(outcome.reasons), now)
    if (keep := project.promotion.keep_versions) is None:
        return outcome
    try:
        deleted = delete_oldest(registry, keep)
    except TrainingError as error:  # what is promoted serves, whatever cannot be tidied up behind it
        return replace(outcome, reasons=[*outcome.reasons, str(error)])
    for version in deleted:
        (project.root / "retrains" / f"{version}.heldout.parquet").unlink(missing_ok=True)
    return replace(outcome, deleted=deleted)


def _verdict(
    project: Project, store: Store, registry: Registry, champion: str | None, challenger: str
) -> tuple[Verdict, bool]:
    """What the gate says, and whether the challenger could serve at all."""
    try:
        new, policy = registry.load(challenger), policy_in_force(store, challenger)
    except TrainingError as error:
        return Verdict(False, [f"the challenger does not load: {error}"]), False
    if not _scores(project, store, new):
        return Verdict(False, ["the challenger gives no probabilities"]), False
    verdict = _compared(project, store, registry, champion, challenger, (new, policy))
    if (most_ms := project.promotion.max_latency_ms) is not None:
        contents = stored_contents(project, store, LATENCY_ITEMS)
        verdict = within_latency(verdict, single_item_latency(new, policy, contents).p95, most_ms)
    return verdict, True


def _compared(
    project: Project,
    store: Store,
    registry: Registry,
    champion: str | None,
    challenger: str,
    new: tuple[Any, Policy | None],
) -> Verdict:
    coverage = new[1].certified_coverage if new[1] else 0.0
    verified = project.gold is not None
    if champion is None:
        return first_promotion(coverage, verified)
    try:
        old = registry.load(champion), policy_in_force(store, champion)
    except TrainingError as error:
        remedy = "nothing to compare with: bring them back, or `flywheel promote --force REASON`"
        return Verdict(False, [f"the champion does not load: {error}", remedy])
    if _knows_nothing(project, old[0]):
        return succession(coverage, verified)
    samples = _paired(project, store, old, new) or _held_out(project, champion, challenger, old[0])
    lapsed = old[1] is None or old[1].thresholds is None
    leaves = _known(project, new[0])
    return judge(samples, project.taxonomy.levels, leaves, project.promotion.margin, lapsed)


def _now() -> datetime:
    return datetime.now(UTC)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "somebody"


def _scores(project: Project, store: Store, student: Any) -> bool:
    """Whether the student gives a finite probability for some item at hand."""
    from tasks.student.samples import inputs_of

    P = student.probabilities(inputs_of(project, student, newest_items(store, 1)))
    return bool(np.isfinite(P).all())


def _paired(
    project: Project, store: Store, champion: tuple[Any, Policy | None], challenger: tuple[Any, Policy | None]
) -> list[Judged]:
    """Gold's evaluation half and the audits of the same half, each judged by both."""
    gold = with_roles(read_gold(project)).filter(pl.col("role") == "evaluation")
    watched = audits(store, project.routing.audit_window_days, misses_only=True)
    audited = judged_audits(watched, current_labels(store, project.taxonomy))
    audited = (
        audited.with_columns(today(audited["label"], project.taxonomy))
        .filter(pl.col("role") == "evaluation")
        .join(read_contents(store, audited), on="key", how="inner", maintain_order="left")
    )
    known, samples = _known(project, champion[0]), []
    for name, rows in (("gold", gold), ("audited traffic", audited)):
        shared = rows.filter(pl.col("label").is_in(known))
        if shared.height:
            judged = _judge_pair(project, name, shared, champion, challenger)
            samples.append(replace(judged, left_out=rows.height - shared.height))
    return samples


def _known(project: Project, student: Any) -> list[str]:
    """What a student's labels are today."""
    return today_or_then(student.taxonomy.leaves, project.taxonomy)


def _knows_nothing(project: Project, student: Any) -> bool:
    """Whether not one of today's labels, but for `other`, is among a student's."""
    today = set(project.taxonomy.leaves) - {project.taxonomy.other}
    return today.isdisjoint(_known(project, student))


def _held_out(project: Project, champion: str, challenger: str, old: Any) -> list[Judged]:
    """Without gold and audits: what each said out of fold about the labelled items that both were trained on."""
    files = [project.root / "retrains" / f"{version}.heldout.parquet" for version in (champion, challenger)]
    if not all(file.exists() for file in files):
        return []
    before, after = (pl.read_parquet(file) for file in files)
    both = after.join(before, on="key", how="inner", suffix="_before", maintain_order="left")
    known = _known(project, old)
    both = both.filter(
        pl.Series(today_or_then(both["label"].to_list(), project.taxonomy), dtype=pl.String).is_in(known)
    )
    if not both.height:
        return []
    truth, said, said_before = (
        today_or_then(both[name].to_list(), project.taxonomy)
        for name in ("label", "answered", "answered_before")
    )
    covers = both["covered_before"].to_numpy(), both["covered"].to_numpy()
    return [Judged("held-out labels (no gold: unverified)", truth, said_before, said, covers)]


def _judge_pair(
    project: Project,
    name: str,
    rows: pl.DataFrame,
    champion: tuple[Any, Policy | None],
    challenger: tuple[Any, Policy | None],
) -> Judged:
    from tasks.student.samples import inputs_of

    said, covers = [], []
    for student, policy in (champion, challenger):
        answers = student.answers(inputs_of(project, student, rows))
        thresholds = policy.thresholds if policy else None
        said.append(today_or_then(answers.labels, project.taxonomy))
        covers.append(
            np.array(cleared(answers, student.taxonomy.levels, thresholds, student.taxonomy.other), bool)
        )
    return Judged(name, rows["label"].to_list(), said[0], said[1], (covers[0], covers[1]))
