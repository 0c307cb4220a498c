"""Whether traffic still is what it was: coverage, score, familiarity and label mix with their limits, in words.

Counts and a policy in, signals out. Where the counts come from, who is told, and what is started is others' business.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.monitoring.drift_evidence import LEAST_ITEMS, Verdict, distribution_moved, rate_above
from tasks.monitoring.drift_mix import mix_moved
from tasks.monitoring.drift_reference import (
    FIRST_REQUESTS,
    Reference,
    certified_sample,
    first_requests,
    is_of_traffic,
)
from tasks.monitoring.drift_signals import Signal, Terms, date_of, signal, unknown
from tasks.monitoring.drift_traffic import Traffic
from tasks.monitoring.wording import percent
from tasks.records import Policy
from tasks.student.intervals import clopper_pearson_upper
from tasks.taxonomy import SEPARATOR, split, truncate

_SHAPES = {"score": "scores", "familiarity": "familiarity"}


def signals_under(policy: Policy, traffic: Traffic | None, terms: Terms) -> list[Signal]:
    """Coverage, score, familiarity and label mix of the traffic under a policy against what it was like before.

    That is the calibration sample where it was traffic itself, else the first requests under the policy, and nothing is
    known until there are later ones. Each signal may be looked at as often as one likes.
    """
    names, profile = ("coverage", "score", "familiarity", "label_mix"), policy.calibration_profile
    if profile is None:
        said = (
            "The policy does not say what it was calibrated on; `flywheel recalibrate` issues one that does."
        )
        return [unknown(name, 0, said) for name in names]
    requests, audited = 0 if traffic is None else int(traffic.requests.sum()), is_of_traffic(policy)
    sample = profile["items"] if audited else FIRST_REQUESTS
    if traffic is None or min(requests, sample) < LEAST_ITEMS:
        seen = f"{requests:,} requests that no cache answered"
        said = f"Too little to compare: {seen}, {sample:,} to hold them against."
        return [unknown(name, requests, said) for name in names]
    halves = (certified_sample(policy, traffic.names), traffic) if audited else first_requests(traffic)
    if halves is None:
        said = (
            f"{requests:,} requests: the first {FIRST_REQUESTS:,} under this policy, to the end of their day, are what "
            f"later ones are held against, because {policy.against} labels calibrated it and not traffic."
        )
        return [unknown(name, requests, said) for name in names]
    before, now = halves
    allowance = terms.allowance(policy)
    signals = [_coverage(before, now, terms.tolerance, allowance)]
    for name, reference, counts in (
        ("score", before.scores, now.scores),
        ("familiarity", before.familiarity, now.familiarity),
    ):
        if reference is None or counts is None:
            said = "The student keeps no prototypes to be near to or far from."
            signals.append(unknown(name, int(now.requests.sum()), said))
        else:
            found = distribution_moved(reference, counts, terms.tolerance, allowance)
            said = _at_the_cut(profile[_SHAPES[name]]["edges"], counts, reference, now, found, before.words)
            signals.append(signal(name, found.value, 0.0, found.limit, found.items, found.alarm, said))
    return [*signals, _label_mix(before, now, terms.tolerance, allowance)]


def _coverage(before: Reference, traffic: Traffic, tolerance: float, allowance: float) -> Signal:
    promised, requests = before.answered / before.items, int(traffic.requests.sum())
    missed = before.items - before.answered
    # Half of the allowance; the other half is the promise's own.
    limit = 1 - float(clopper_pearson_upper(missed, before.items, allowance / 2)) - tolerance
    share = float(traffic.answered.sum() / requests)
    then = f"{percent(promised)} {before.words}"
    if limit <= 0:
        said = f"The student answers {percent(share)}; {then}, too few to fall below."
        return signal("coverage", share, promised, None, requests, False, said)
    found = rate_above(traffic.requests - traffic.answered, traffic.requests, 1 - limit, allowance / 2)
    said = (
        f"The student answers {percent(1 - found.value)} of {found.items:,} requests since "
        f"{_since(traffic, found.since)}, {then}."
    )
    return signal("coverage", 1 - found.value, promised, limit, found.items, found.alarm, said)


def _label_mix(before: Reference, traffic: Traffic, tolerance: float, allowance: float) -> Signal:
    # Categories and groups of them may not depend on what comes: labels that none had before are one category.
    known = before.labels > 0
    names = [name for name, is_known in zip(traffic.names, known, strict=True) if is_known]
    upper = {truncate(name, depth) for name in names for depth in range(1, len(split(name)))}
    below = [[(name + SEPARATOR).startswith(one + SEPARATOR) for name in names] + [False] for one in upper]
    groups = np.concatenate(
        [np.eye(len(names) + 1, dtype=bool), np.array(below, bool).reshape(len(upper), -1)]
    )
    sample, counts = (
        np.concatenate([rows[..., known], rows[..., ~known].sum(axis=-1, keepdims=True)], axis=-1)
        for rows in (before.labels, traffic.labels)
    )
    found = mix_moved(sample, counts, groups, tolerance, allowance)
    counted = traffic.labels[found.since :].sum(axis=0)
    now, then = counted / max(1, counted.sum()), before.labels / max(1, before.labels.sum())
    most = int(np.abs(now - then).argmax())
    said = (
        f"{traffic.names[most]} changed most: {percent(now[most])} of requests since {_since(traffic, found.since)}, "
        f"{percent(then[most])} {before.words}."
    )
    if 1 < (together := int(found.group.sum())) < len(names):
        said += (
            f" {together} labels together: {percent(found.share)}, {percent(found.before)} {before.words}."
        )
    return signal("label_mix", found.share, found.before, found.limit, found.items, found.alarm, said)


def _at_the_cut(
    edges: Sequence[float],
    counts: NDArray[np.int64],
    reference: NDArray[np.int64],
    traffic: Traffic,
    found: Verdict,
    words: str,
) -> str:
    now, then = (
        percent(float(part[: found.cut + 1].sum() / max(1, part.sum())))
        for part in (counts[found.since :].sum(axis=0), reference)
    )
    edge = edges[min(found.cut, len(edges) - 1)]
    return f"{now} of requests since {_since(traffic, found.since)} are at most {edge:.3g}, {then} {words}."


def _since(traffic: Traffic, place: int) -> str:
    return date_of(traffic.first_day + place)
