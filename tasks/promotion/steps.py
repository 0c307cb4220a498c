"""The Prefect steps of promotion: compare champion and challenger, ask and hear a person, move the alias, roll back."""

from __future__ import annotations

import getpass
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import TrainingError
from tasks.monitoring.bench import single_item_latency, stored_contents
from tasks.project import Project
from tasks.promotion.approval import (
    APPROVED,
    ASKED_IN,
    DUE,
    EXPIRED,
    REJECTED,
    STATE,
    UNTIL,
    WAITING,
    answer_tags,
    answered,
    asked_by,
    asking_tags,
    close_older_questions,
    outcome_tags,
    refused,
    standing,
)
from tasks.promotion.champions import PREDECESSOR, delete_oldest, make_champion, roll_back
from tasks.promotion.comparing import compare
from tasks.promotion.gate_in_words import tags_in_words
from tasks.promotion.registry import CHALLENGER, CHAMPION, Registry
from tasks.promotion.tracking import registry_of
from tasks.records import Policy, Promoted
from tasks.retries import AGAIN
from tasks.routing.cascade import cleared
from tasks.store import open_store
from tasks.store.policies import policy_in_force
from tasks.student.package import Student
from tasks.student.standing_snapshot import drop_snapshots

LATENCY_ITEMS = 200


@task(name="compare and promote", cache_policy=NO_CACHE, **AGAIN)
def promote_challenger(
    project: Project, approved: bool = False, force_reason: str | None = None, asks: str | None = None
) -> Promoted:
    """Afterwards the challenger serves if the gate (and a person, where the project wants one) let it.

    What was found stands as tags on the version either way. Who was asked about it and has not answered, or said no, is
    not asked a second time; a yes that was given and not carried out is carried out, without comparing again.

    Args:
        project: its settings.
        approved: a person's yes, given beforehand.
        force_reason: promote against the gate, or against silence; not what does not load or score.
        asks: the run that can ask a person: it compares anew where another run asked before, or heard a no.
    """
    registry, store, now = registry_of(project), open_store(project.database_url, project.project), _now()
    champion, challenger = registry.alias(CHAMPION), registry.alias(CHALLENGER)
    if challenger is not None and challenger == champion:  # a run was killed while it promoted this version
        make_champion(registry, challenger, registry.tags(challenger).get("gate_reasons", ""), now)
    if challenger is None or challenger == champion:
        return Promoted(False, champion, None, ["there is no challenger: `flywheel retrain` makes one"])
    close_older_questions(registry, challenger, now)
    if not (approved or force_reason):
        tags = registry.tags(challenger)
        known = standing(tags, champion, now)
        if known is not None and known.promoted:
            return _as_answered(project, registry, known, now)
        if known is not None and (asks is None or tags.get(ASKED_IN) == asks):
            if tags[STATE] == WAITING and now >= datetime.fromisoformat(tags[UNTIL]):
                silence = answer_tags(EXPIRED, "nobody", known.reasons[0], now)
                registry.tag(challenger, outcome_tags(known, silence))
            return known

    def p95_ms(student: Student, policy: Policy | None) -> float:
        return single_item_latency(student, policy, stored_contents(project, store, LATENCY_ITEMS)).p95

    verdict, usable = compare(project, store, registry, champion, challenger, _would_answer, p95_ms)
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
    tags, answer = tags_in_words(outcome.numbers), None
    if promoted and by_person:
        how = "--force" if force_reason is not None else "--approve"
        answer = answer_tags(APPROVED, f"{_user()}, by {how}", force_reason or "none given", now)
    if forced:
        tags |= {"forced": str(force_reason)}
    registry.tag(challenger, tags | outcome_tags(outcome, answer))
    return _carried_out(project, registry, outcome, now)


@task(name="say who is asked", cache_policy=NO_CACHE, **AGAIN)
def note_question(project: Project, outcome: Promoted, run: str) -> None:
    """Afterwards the version says which run asks a person about it, and until when."""
    tags = asking_tags(run, _now(), project.promotion.approval_hours)
    registry_of(project).tag(str(outcome.challenger_version), tags)


@task(name="look for an open question", cache_policy=NO_CACHE, **AGAIN)
def open_question(project: Project, run: str) -> Promoted | None:
    """What this very run asked a person about before it was suspended, if that still stands."""
    registry = registry_of(project)
    challenger = registry.alias(CHALLENGER)
    if challenger is None:
        return None
    return asked_by(registry.tags(challenger), run, registry.alias(CHAMPION))


@task(name="look who asks", cache_policy=NO_CACHE, **AGAIN)
def question_of_another(project: Project) -> tuple[str, Promoted, bool] | None:
    """The run that a person's answer is waited for in, what it asks, and whether the time for it is over."""
    registry = registry_of(project)
    challenger = registry.alias(CHALLENGER)
    tags = registry.tags(challenger) if challenger is not None else {}
    run = tags.get(ASKED_IN, "")
    asked = asked_by(tags, run, registry.alias(CHAMPION))
    return (run, asked, _now() >= datetime.fromisoformat(tags[UNTIL])) if asked is not None else None


@task(name="give a lost question up", cache_policy=NO_CACHE, **AGAIN)
def give_up_question(project: Project, asked: Promoted) -> None:
    """Afterwards nobody is waited for: a person is still to be asked about the version."""
    registry_of(project).tag(str(asked.challenger_version), {STATE: DUE})


@task(name="write the answer down", cache_policy=NO_CACHE, **AGAIN)
def note_answer(project: Project, asked: Promoted, run: str, approve: bool, by: str, reason: str) -> None:
    """Afterwards the version bears what a person said, if this run's question still stands; nothing else moves.

    It takes no lease: what was said must not be lost while another job works.
    """
    registry, version = registry_of(project), str(asked.challenger_version)
    if asked_by(registry.tags(version), run, asked.compared_with) is None:
        return
    answer = answer_tags(APPROVED if approve else REJECTED, by, reason, _now())
    registry.tag(version, answer if approve else outcome_tags(refused(asked, by, reason), answer))


@task(name="do what the person said", cache_policy=NO_CACHE, **AGAIN)
def answer_challenger(project: Project, run: str) -> Promoted:
    """Afterwards the challenger serves, or is refused, as the answer to this run's question says.

    Done again it changes nothing. Another challenger or champion than those compared makes the answer void, which is
    said.
    """
    registry, now = registry_of(project), _now()
    champion, challenger = registry.alias(CHAMPION), registry.alias(CHALLENGER)
    for version in registry.versions(**{ASKED_IN: run}):
        tags = registry.tags(version)
        said = answered(tags, champion if version != champion else tags.get(PREDECESSOR))
        if said is not None and (version == challenger or (version == champion and said.promoted)):
            return _as_answered(project, registry, said, now)
    now_asked = f"version {challenger} after {champion or 'none'} is" if challenger else "there is none"
    void = f"what this run asked is no longer the question, {now_asked}: start promote again"
    return Promoted(False, champion, challenger, [void], compared_with=champion)


@task(name="roll back", cache_policy=NO_CACHE)
def rollback_champion(project: Project) -> dict[str, Any]:
    """Afterwards the champion's predecessor serves again, with the last policy it had.

    Raises:
        TrainingError: there is no champion, it has no predecessor, or that one's files are gone.
    """
    registry, store = registry_of(project), open_store(project.database_url, project.project)
    version, before, finished = roll_back(registry, _now())
    policy, left = policy_in_force(store, version), policy_in_force(store, before)
    return {
        "champion_version": version,
        "rolled_back_from": before,
        "policy_id": policy.id if policy else None,
        "policy_before": left.id if left else None,
        "certified_coverage": policy.certified_coverage if policy else 0.0,
        "sentence": (
            policy.sentence
            if policy
            else "It has no policy: it answers nothing until `flywheel recalibrate`."
        )
        + (
            " This finished a rollback that was cut short; another one goes further back." if finished else ""
        ),
    }


def _as_answered(project: Project, registry: Registry, said: Promoted, now: datetime) -> Promoted:
    """A person's answer carried out, which is noted on the version already."""
    state = {STATE: APPROVED if said.promoted else REJECTED}
    registry.tag(str(said.challenger_version), outcome_tags(said, state))
    return _carried_out(project, registry, said, now)


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
    if deleted:
        drop_snapshots(project.root, deleted, registry.versions())
    return replace(outcome, deleted=deleted)


def _would_answer(student: Student, policy: Policy | None, answers: Any) -> list[bool]:
    tree = student.taxonomy
    return cleared(answers, tree.levels, policy.thresholds if policy else None, tree.other)


def _now() -> datetime:
    return datetime.now(UTC)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "somebody"
