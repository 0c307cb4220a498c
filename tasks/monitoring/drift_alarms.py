"""Which alarms are new: each is raised for its remedy, and again only after a time if that has not ended well.

Signals and a memory in, alarms and a memory out; where the memory is kept and who hears an alarm is others' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf

from tasks.monitoring.drift_signals import NIGHTLY, RECALIBRATE, REMEDIES, Signal
from tasks.records import Record


@dataclass(frozen=True)
class Raised(Record):
    """What was raised last of one signal.

    Attributes:
        version: of the model it was about.
        policy: in force then; 0 for none.
        remedies: how many of the signal's were advised for that version.
        at: seconds since 1970.
    """

    version: str | None
    policy: int
    remedies: int
    at: float


Memory = Mapping[str, Raised]


def alarms_to_raise(
    signals: Iterable[Signal], memory: Memory, versions: Mapping[str, str | None], policy: int, now: float,
    quiet_seconds: float, ended_well: Mapping[str, float],
) -> tuple[dict[str, str], Memory]:  # fmt: skip
    """The job that each newly alarming signal asks for, and what to remember once that is told.

    A signal that alarms is raised with its first remedy; if it still alarms when its quiet time is over, with the next;
    then no more for this version. A remedy that has not ended well since it was raised (the event lost, the job failed,
    cancelled, or refused) is raised again instead. A signal that has ceased to alarm begins anew. So one cause has each
    job end well once.

    Args:
        signals: of one look.
        memory: by signal.
        versions: the model version that each signal is about.
        policy: in force; 0 for none.
        now: seconds since 1970.
        quiet_seconds: between two alarms of one signal, whatever happens.
        ended_well: by job, when the newest run that ended well began, in seconds since 1970.
    """
    raised: dict[str, str] = {}
    after = dict(memory)
    for signal in signals:
        before, version = memory.get(signal.name), versions[signal.name]
        if not signal.alarms:
            if before is not None and signal.is_known:
                after[signal.name] = replace(before, remedies=0)
            continue
        tried = _tried(signal.name, before, version, ended_well)
        rests = before is not None and now - before.at < quiet_seconds
        if rests or tried >= len(REMEDIES[signal.name]):
            continue
        raised[signal.name] = REMEDIES[signal.name][tried]
        after[signal.name] = Raised(version, policy, tried + 1, now)
    return raised, after


def _tried(name: str, before: Raised | None, version: str | None, ended_well: Mapping[str, float]) -> int:
    """How many of a signal's remedies were advised for this version, the last one only if it ended well."""
    if before is None or before.version != version or not before.remedies:
        return 0
    job = REMEDIES[name][before.remedies - 1]
    jobs = (RECALIBRATE, NIGHTLY) if job == RECALIBRATE else (job,)  # a nightly run recalibrates, too
    ended = any(ended_well.get(one, -inf) >= before.at for one in jobs)
    return before.remedies if ended else before.remedies - 1
