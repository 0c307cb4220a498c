"""How often the monitor alarms without drift, and after how many nights with it, simulated.

    python -m tests.benchmarks.drift --nights 60 --draws 400

The signals' own functions on drawn counts: what they are held against (error 5 %, coverage 60 %, the score's
distribution) is true in the first table and has changed on night 30 in the second. The calibration sample is drawn
anew each time, and the policy's number is 30, as after a month of nightly policies. "First requests" is a policy that
gold calibrated, unlike all traffic. The third table holds two tests of a mix of labels side by side: its largest
difference of cumulative shares in the order of the labels, and the one in use.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.monitoring.drift import signals_under
from tasks.monitoring.drift_evidence import distribution_moved, rate_above
from tasks.monitoring.drift_mix import mix_moved
from tasks.monitoring.drift_signals import Terms
from tasks.monitoring.drift_traffic import Traffic
from tasks.student.calibration_profile import binned
from tasks.student.package import Answers
from tests.monitoring.drifting import LABELS, certified_on, drawn

SHIFT_NIGHT, NUMBER = 30, 30
TERMS = Terms(0.05, 0.05)
SIZES = ((300, 50), (300, 500), (2000, 500))
COUNTED = ("coverage", "score", "familiarity", "label_mix")
Draw = Callable[[np.random.Generator, int], Answers]


def nights_until(
    random: np.random.Generator,
    calm: Draw,
    changed: Draw,
    calibrated: int,
    a_night: int,
    nights: int,
    since: int,
) -> dict[str, int | None]:
    """The first night on which each signal of traffic alarms; calibrated on 0, the first requests are the reference."""
    sample = calm(random, calibrated) if calibrated else drawn(random, 300, mix=(0.1, 0.1, 0.8), sure=12.0)
    policy = replace(certified_on(sample), id=NUMBER, against="adjudicated" if calibrated else "gold")
    profile = policy.calibration_profile
    assert profile is not None
    shapes = {name: np.asarray(profile[name]["edges"]) for name in ("scores", "familiarity")}
    names = sorted(LABELS)
    counts: dict[str, list[NDArray[np.int64]]] = {
        "answered": [],
        "scores": [],
        "familiarity": [],
        "labels": [],
    }
    for night in range(nights):
        said = (changed if night >= since else calm)(random, a_night)
        assert said.familiarity is not None
        counts["answered"].append(np.array(int((said.scores[:, -1] >= 0.6).sum())))
        for name, values in (("scores", said.scores[:, -1]), ("familiarity", said.familiarity)):
            counts[name].append(np.bincount(binned(values, shapes[name]), minlength=len(shapes[name]) + 1))
        counts["labels"].append(np.array([said.labels.count(name) for name in names]))
    first: dict[str, int | None] = dict.fromkeys(COUNTED)
    for night in range(1, nights + 1):
        so_far = {name: np.array(rows[:night]) for name, rows in counts.items()}
        traffic = Traffic(0, np.full(night, a_night), names=names, **so_far)
        for signal in signals_under(policy, traffic, TERMS):
            if signal.alarms and first[signal.name] is None:
                first[signal.name] = night
    return first


def audited_until(
    random: np.random.Generator, rate: float, a_night: int, nights: int, since: int
) -> int | None:
    """The first night on which the audited error alarms."""
    rates = np.where(np.arange(nights) >= since, rate, 0.04 if since else rate)
    hits, trials = random.binomial(a_night, rates), np.full(nights, a_night)
    for night in range(1, nights + 1):
        if rate_above(hits[:night], trials[:night], 0.05, TERMS.false_alarms / 5).alarm:
            return night
    return None


def mixes_until(
    random: np.random.Generator,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    calibrated: int,
    a_night: int,
    nights: int,
) -> dict[str, int | None]:
    """The first night on which either test of the mix of labels alarms."""
    sample, each = random.multinomial(calibrated, before), np.eye(len(before), dtype=bool)
    counts = np.concatenate(
        [
            random.multinomial(a_night, before, SHIFT_NIGHT),
            random.multinomial(a_night, after, nights - SHIFT_NIGHT),
        ]
    )
    allowance = TERMS.allowance(replace(certified_on(drawn(random, 30)), id=NUMBER))
    tests: dict[str, Callable[[int], bool]] = {
        "cumulative": lambda n: distribution_moved(sample, counts[:n], TERMS.tolerance, allowance).alarm,
        "in use": lambda n: mix_moved(sample, counts[:n], each, TERMS.tolerance, allowance).alarm,
    }
    looks = range(SHIFT_NIGHT + 1, nights + 1)
    return {name: next((n for n in looks if alarms(n)), None) for name, alarms in tests.items()}


def mixes() -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """What changes in the third table: shares before and after."""
    found = {}
    for labels in (20, 120):
        even, place = np.full(labels, 1 / labels), np.arange(labels)
        found[f"every second of {labels} labels times 1.5, the others halved"] = (
            even,
            even * np.where(place % 2, 0.5, 1.5),
        )
        found[f"the first half of {labels} labels times 1.5, the others halved"] = (
            even,
            even * np.where(place < labels // 2, 1.5, 0.5),
        )
        rare = 1 / (place + 1) / (1 / (place + 1)).sum()
        others = np.append(rare[:-1] / rare[:-1].sum(), 0.0)
        found[f"the rarest of {labels} labels to 15 %"] = rare, 0.85 * others + 0.15 * (place == labels - 1)
    return found


def said_of(found: Sequence[Mapping[str, int | None]]) -> Mapping[str, str]:
    """By test, how many draws it found, and the median of nights after."""
    said = {}
    for name in found[0]:
        after = [night for one in found if (night := one[name]) is not None]
        if after:
            said[name] = f"{len(after) / len(found):.0%} after {np.median(after) - SHIFT_NIGHT:.0f}"
    return said


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--draws", type=int, default=400)
    asked = parser.parse_args()
    random = np.random.default_rng(0)

    print(f"no drift, {asked.nights} nights, {asked.draws} draws: share that ever alarms")
    for calibrated, a_night in (*SIZES, (0, 500)):
        found = [
            nights_until(random, drawn, drawn, calibrated, a_night, asked.nights, 0)
            for _ in range(asked.draws)
        ]
        ever = {name: float(np.mean([one[name] is not None for one in found])) for name in COUNTED}
        print(f"  {calibrated or 'first requests'} calibrated on, {a_night} a night: {ever}")
    for a_night in (5, 20, 100):
        ever_audited = [audited_until(random, 0.05, a_night, asked.nights, 0) for _ in range(asked.draws)]
        print(
            f"  audited error of exactly 5 %, {a_night} a night: {np.mean([n is not None for n in ever_audited])}"
        )

    print(
        f"drift on night {SHIFT_NIGHT}: share found by night {asked.nights}, and the median of nights after"
    )
    shifts: dict[str, Draw] = {
        "score somewhat lower": lambda rng, n: drawn(rng, n, sure=4.0),
        "score much lower": lambda rng, n: drawn(rng, n, sure=2.5),
        "a label from 20 to 35 %": lambda rng, n: drawn(rng, n, mix=(0.4, 0.25, 0.35)),
        "a label from 20 to 50 %": lambda rng, n: drawn(rng, n, mix=(0.3, 0.2, 0.5)),
        "familiarity times 0.8": lambda rng, n: drawn(rng, n, near=0.8),
        "familiarity times 0.6": lambda rng, n: drawn(rng, n, near=0.6),
    }
    for what, shift in shifts.items():
        for calibrated, a_night in (*SIZES, (0, 500)):
            found = [
                nights_until(random, drawn, shift, calibrated, a_night, asked.nights, SHIFT_NIGHT)
                for _ in range(max(1, asked.draws // 10))
            ]
            told = said_of(found) or "not found"
            print(f"  {what}, {calibrated or 'first requests'} calibrated on, {a_night} a night: {told}")
    for rate in (0.08, 0.10, 0.15):
        for a_night in (5, 20, 100):
            nights = [
                audited_until(random, rate, a_night, asked.nights, SHIFT_NIGHT)
                for _ in range(asked.draws // 4)
            ]
            late = [night for night in nights if night is not None]
            print(
                f"  audited error 4 to {rate:.0%}, {a_night} a night: {len(late) / len(nights):.0%}"
                + (f" after {np.median(late) - SHIFT_NIGHT:.0f}" if late else "")
            )
    for what, (before, then) in mixes().items():
        for calibrated, a_night in SIZES:
            looked = [
                mixes_until(random, before, then, calibrated, a_night, asked.nights)
                for _ in range(max(1, asked.draws // 10))
            ]
            print(
                f"  {what}, {calibrated} calibrated on, {a_night} a night: {said_of(looked) or 'not found'}"
            )


if __name__ == "__main__":
    main()
