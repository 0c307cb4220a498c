"""When an alarm is new: once for a remedy, the next remedy only after a quiet time, and no storm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tasks.monitoring.drift_alarms import Memory, alarms_to_raise
from tasks.monitoring.drift_signals import Signal

HOUR, QUIET = 3600.0, 24 * 3600.0
LOW = Signal("coverage", 0.3, 0.6, 0.5, 900, alarms=True, says="")
MIXED = Signal("label_mix", 0.4, 0.0, 0.2, 900, alarms=True, says="")


LONG_AGO, ALL_WELL = -1.0, {"recalibrate": 1e9, "nightly": 1e9}


def look(
    signal: Signal,
    memory: Memory,
    hours: float,
    version: str = "1",
    ended_well: Mapping[str, float] = ALL_WELL,
) -> tuple[dict[str, str], Memory]:
    versions = {signal.name: version}
    return alarms_to_raise([signal], memory, versions, 1, hours * HOUR, QUIET, ended_well)


def test_an_alarm_that_goes_on_starts_each_remedy_once() -> None:
    """A look every four hours for ten days: recalibration at once, a nightly run a day later, then silence."""
    memory: Memory = {}
    raised = []
    for hours in range(0, 240, 4):
        new, memory = look(LOW, memory, hours)
        raised += [(hours, job) for job in new.values()]
    assert raised == [(0, "recalibrate"), (24, "nightly")]


def test_a_remedy_that_did_not_end_well_is_raised_again_after_the_quiet_time() -> None:
    """Recalibration comes to nothing twice, then ends well; the nightly run fails once: each until it is done."""
    memory: Memory = {}
    ended_well: dict[str, float] = {"recalibrate": LONG_AGO, "nightly": LONG_AGO}
    raised = []
    for hours in range(0, 240, 4):
        new, memory = look(LOW, memory, hours, ended_well=ended_well)
        raised += [(hours, job) for job in new.values()]
        if hours == 52:
            ended_well["recalibrate"] = hours * HOUR
        if hours == 100:
            ended_well["nightly"] = hours * HOUR
    assert raised == [
        (0, "recalibrate"), (24, "recalibrate"), (48, "recalibrate"), (72, "nightly"), (96, "nightly")
    ]  # fmt: skip


def test_a_nightly_run_has_recalibrated_too() -> None:
    """The schedule's own run, since the alarm, counts as the recalibration that was advised."""
    _, memory = look(LOW, {}, 0)
    assert look(LOW, memory, 30, ended_well={"nightly": 5 * HOUR})[0] == {"coverage": "nightly"}


def test_a_mix_that_has_changed_wants_training_at_once() -> None:
    """New thresholds would not help; and one nightly run is all that is tried for a version."""
    first, memory = look(MIXED, {}, 0)
    again, _ = look(MIXED, memory, 100)
    assert (first, again) == ({"label_mix": "nightly"}, {})
    assert look(MIXED, memory, 100, ended_well={"recalibrate": 1e9})[0] == first


def test_another_version_begins_anew_when_it_is_quiet_no_more() -> None:
    """Not at once: a remedy that made a version must not start itself over and over."""
    _, memory = look(LOW, {}, 0)
    assert look(LOW, memory, 5, version="2")[0] == {}
    assert look(LOW, memory, 25, version="2")[0] == {"coverage": "recalibrate"}


def test_what_has_ceased_begins_anew() -> None:
    """After a quiet look the first remedy comes first again; what is merely unknown settles nothing."""
    _, memory = look(LOW, {}, 0)
    unknown = replace(LOW, alarms=False, value=None)
    assert look(unknown, memory, 20)[1] == memory
    _, settled = look(replace(LOW, alarms=False), memory, 20)
    assert look(LOW, settled, 30)[0] == {"coverage": "recalibrate"}
    assert look(LOW, memory, 30)[0] == {"coverage": "nightly"}
