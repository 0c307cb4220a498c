"""What one look says about one thing, which jobs may help, and how many false alarms all of them are allowed.

A record and its words; how a signal is computed is `drift`'s and `drift_audits`' business.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from tasks.records import Policy, Record
from tasks.store.traffic import DAY_SECONDS

RECALIBRATE, NIGHTLY = "recalibrate", "nightly"
REMEDIES = {
    "audited_error": (RECALIBRATE, NIGHTLY),
    "coverage": (RECALIBRATE, NIGHTLY),
    "score": (RECALIBRATE, NIGHTLY),
    "familiarity": (NIGHTLY,),
    "label_mix": (NIGHTLY,),
    "new_labels": (NIGHTLY,),
}
"""The jobs that may help, the cheapest first: new thresholds for the same student, else a student that knows more."""

_HELPS = {
    RECALIBRATE: "`flywheel recalibrate` moves the thresholds to what is true now",
    NIGHTLY: "`flywheel nightly` lets a student learn from what has come",
}

TESTS = 5
"""Signals that share the allowance for false alarms; counting labels errs never."""


@dataclass(frozen=True)
class Signal(Record):
    """One thing looked at.

    Attributes:
        name: see `REMEDIES`.
        value: now; None where nothing can be said.
        reference: before, or what was promised.
        limit: beyond which it alarms, given enough evidence.
        items: that it rests on.
        alarms: whether it does.
        says: all of it in a sentence, with the remedy where it alarms.
    """

    name: str
    value: float | None
    reference: float | None
    limit: float | None
    items: int
    alarms: bool
    says: str

    @property
    def is_known(self) -> bool:
        """Whether there was enough to say yes or no."""
        return self.value is not None


@dataclass(frozen=True)
class Terms:
    """`false_alarms`: the chance that any signal ever alarms though nothing changed; `tolerance`: see `Monitor`."""

    false_alarms: float
    tolerance: float

    def allowance(self, policy: Policy) -> float:
        """Of one signal under one policy: however many are issued, they sum to no more than the signal's."""
        number = max(1, policy.id or 1)
        return self.false_alarms / TESTS / (number * (number + 1))


def signal(
    name: str,
    value: float,
    reference: float | None,
    limit: float | None,
    items: int,
    alarms: bool,
    said: str,
) -> Signal:
    """What was found, with the remedy in its words where it alarms."""
    if alarms:
        first, *then = REMEDIES[name]
        said += f" {_HELPS[first]}" + (f"; where that does not help, {_HELPS[then[0]]}." if then else ".")
    return Signal(name, value, reference, limit, items, alarms, said)


def unknown(name: str, items: int, said: str) -> Signal:
    """Neither yes nor no."""
    return Signal(name, None, None, None, items, False, said)


def date_of(day: int) -> str:
    """A day since 1970 as YYYY-MM-DD."""
    return datetime.fromtimestamp(day * DAY_SECONDS, UTC).date().isoformat()
