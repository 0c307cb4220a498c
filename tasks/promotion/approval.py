"""A person's yes or no to a challenger: what was asked, until when, and what became of it, as tags of its version.

Knows tags and times; who is asked how is the flow's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from tasks.promotion.champions import ROLLED_BACK_AT, stamp
from tasks.promotion.registry import Registry
from tasks.records import Promoted

STATE = "approval"
DUE, WAITING, APPROVED, REJECTED, EXPIRED, SUPERSEDED = (
    "due",
    "waiting",
    "approved",
    "rejected",
    "expired",
    "superseded",
)
BY, REASON, AT = f"{STATE}_by", f"{STATE}_reason", f"{STATE}_at"
ASKED_IN, UNTIL = f"{STATE}_asked_in", f"{STATE}_until"
NOBODY, WAITS = "none", "waits for a person"
MOST_CHARACTERS = 5000
"""What older MLflow servers hold of a version's tag."""


def outcome_tags(outcome: Promoted, answer: dict[str, str] | None = None) -> dict[str, str]:
    """What the gate said, so that it can be read on the version and taken up again; an older answer is void.

    Tags are written one by one: an answer stands last, so that what it is about is there before it, and one that is
    void goes first, so that it never stands beside what it was not about.
    """
    said = WAITS if outcome.waiting else "promoted" if outcome.promoted else "refused"
    void = {} if answer else {STATE: DUE if outcome.waiting else NOBODY}
    return {
        **void,
        "gate": said,
        "gate_reasons": "; ".join(outcome.reasons)[:MOST_CHARACTERS],
        "gate_outcome": json.dumps(outcome.as_dict()),
        "compared_with": outcome.compared_with or NOBODY,
        **(answer or {}),
    }


def asking_tags(run: str, now: datetime, hours: float) -> dict[str, str]:
    """That a run of the orchestrator asks about the version, and until when it does."""
    return {ASKED_IN: run, UNTIL: stamp(now + timedelta(hours=hours)), STATE: WAITING}


def answer_tags(state: str, by: str, reason: str, now: datetime) -> dict[str, str]:
    """Who decided what, why and when."""
    return {BY: by, REASON: reason, AT: stamp(now), STATE: state}


def asked_by(tags: Mapping[str, str], run: str, champion: str | None) -> Promoted | None:
    """What this very run asked about, if that still stands: the same champion, and nobody has answered elsewhere."""
    if tags.get(STATE) != WAITING or tags.get(ASKED_IN) != run or not _is_about(tags, champion):
        return None
    return _outcome(tags)


def answered(tags: Mapping[str, str], champion: str | None) -> Promoted | None:
    """What a person's yes or no to this version after this champion makes of it; None where there is neither.

    A yes stands until it was carried out: a version that served and was rolled back needs a new one.
    """
    if tags.get(STATE) not in (APPROVED, REJECTED) or not _is_about(tags, champion):
        return None
    outcome = _outcome(tags)
    if tags[STATE] == REJECTED:
        return refused(outcome, tags[BY], tags[REASON])
    if tags.get(ROLLED_BACK_AT, "") >= tags[AT]:
        return None
    if outcome.promoted:
        return outcome
    # The last reason was that a person must say yes.
    reasons = [*outcome.reasons[:-1], f"{tags[BY]} says yes: {tags[REASON]}"]
    return replace(
        outcome, promoted=True, waiting=False, champion_version=outcome.challenger_version, reasons=reasons
    )


def standing(tags: Mapping[str, str], champion: str | None, now: datetime) -> Promoted | None:
    """What became of the question whether the version may follow this champion; None where nobody was asked.

    Asked and in time it is not promoted yet; a yes is still to be carried out; a no, or no answer in time, is a
    refusal. That the time is over is said whatever the tag still says.
    """
    state = tags.get(STATE)
    if state in (APPROVED, REJECTED):
        return answered(tags, champion)
    if state not in (WAITING, EXPIRED) or ASKED_IN not in tags or not _is_about(tags, champion):
        return None
    outcome = _outcome(tags)
    if state == WAITING and now < datetime.fromisoformat(tags[UNTIL]):
        return replace(
            outcome, waiting=False, reasons=[f"a person is asked in the Prefect UI until {tags[UNTIL]}"]
        )
    return replace(outcome, waiting=False, reasons=[f"nobody answered until {tags[UNTIL]}, which is a no"])


def refused(outcome: Promoted, by: str, reason: str) -> Promoted:
    """The outcome after a no."""
    return replace(outcome, waiting=False, reasons=[f"{by} says no: {reason}"])


def close_older_questions(registry: Registry, challenger: str, now: datetime) -> None:
    """Afterwards no other version waits for an answer, or for what it was to bring: a newer one stands in its place."""
    yes = {
        version: registry.tags(version)[BY] for version in registry.versions(gate=WAITS, **{STATE: APPROVED})
    }
    for version in [*registry.versions(**{STATE: WAITING}), *yes]:
        if version != challenger:
            came_before = f"the yes of {yes[version]} was carried out" if version in yes else "an answer did"
            said = f"version {challenger} came before {came_before}"
            registry.tag(version, {"gate": "refused", "gate_reasons": said})
            registry.tag(version, answer_tags(SUPERSEDED, f"version {challenger}", said, now))


def _is_about(tags: Mapping[str, str], champion: str | None) -> bool:
    return tags.get("compared_with") == (champion or NOBODY)


def _outcome(tags: Mapping[str, str]) -> Promoted:
    return Promoted(**json.loads(tags["gate_outcome"]))
