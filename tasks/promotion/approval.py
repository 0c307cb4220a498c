"""A person's yes or no to a challenger: what was asked, until when, and what became of it, as tags of its version.

Knows tags and times; who is asked how is the flow's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from tasks.promotion.champions import stamp
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
ASKED_IN, UNTIL = "approval_asked_in", "approval_until"
NOBODY = "none"


def outcome_tags(outcome: Promoted) -> dict[str, str]:
    """What the gate said, so that it can be read on the version and taken up again; an older answer is void."""
    said = "waits for a person" if outcome.waiting else "promoted" if outcome.promoted else "refused"
    return {
        "gate": said,
        "gate_reasons": "; ".join(outcome.reasons),
        "gate_outcome": json.dumps(outcome.as_dict()),
        "compared_with": outcome.compared_with or NOBODY,
        STATE: DUE if outcome.waiting else NOBODY,
    }


def asking_tags(run: str, now: datetime, hours: float) -> dict[str, str]:
    """That a run of the orchestrator asks about the version, and until when it does."""
    return {STATE: WAITING, ASKED_IN: run, UNTIL: stamp(now + timedelta(hours=hours))}


def answer_tags(state: str, by: str, reason: str, now: datetime) -> dict[str, str]:
    """Who decided what, why and when."""
    return {
        STATE: state,
        f"{STATE}_by": by,
        f"{STATE}_reason": reason,
        f"{STATE}_at": stamp(now),
    }


def asked_by(tags: Mapping[str, str], run: str, champion: str | None) -> Promoted | None:
    """What this very run asked about, if that still stands: the same champion, and nobody has answered elsewhere."""
    if tags.get(STATE) != WAITING or tags.get(ASKED_IN) != run or not _is_about(tags, champion):
        return None
    return _outcome(tags)


def standing(tags: Mapping[str, str], champion: str | None, now: datetime) -> Promoted | None:
    """What became of the question whether the version may follow this champion; None where nobody was asked.

    Asked and in time it is not promoted yet; a no, or no answer in time, is a refusal. That the time is over is said
    whatever the tag still says.
    """
    state = tags.get(STATE)
    if state not in (WAITING, REJECTED, EXPIRED) or ASKED_IN not in tags or not _is_about(tags, champion):
        return None
    outcome = _outcome(tags)
    if state == WAITING and now < datetime.fromisoformat(tags[UNTIL]):
        return replace(
            outcome, waiting=False, reasons=[f"a person is asked in the Prefect UI until {tags[UNTIL]}"]
        )
    if state == REJECTED:
        return refused(outcome, tags[f"{STATE}_by"], tags[f"{STATE}_reason"])
    return replace(outcome, waiting=False, reasons=[f"nobody answered until {tags[UNTIL]}, which is a no"])


def refused(outcome: Promoted, by: str, reason: str) -> Promoted:
    """The outcome after a no."""
    return replace(outcome, waiting=False, reasons=[f"{by} says no: {reason}"])


def close_older_questions(registry: Registry, challenger: str, now: datetime) -> None:
    """Afterwards no other version waits for an answer: a newer one stands in its place."""
    for version in registry.versions(**{STATE: WAITING}):
        if version != challenger:
            said = f"version {challenger} came before an answer did"
            registry.tag(version, {"gate": "refused", "gate_reasons": said})
            registry.tag(version, answer_tags(SUPERSEDED, f"version {challenger}", said, now))


def _is_about(tags: Mapping[str, str], champion: str | None) -> bool:
    return tags.get("compared_with") == (champion or NOBODY)


def _outcome(tags: Mapping[str, str]) -> Promoted:
    return Promoted(**json.loads(tags["gate_outcome"]))
