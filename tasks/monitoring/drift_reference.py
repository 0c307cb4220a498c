"""What traffic under a policy is held against: the sample that certified, or the first requests under the policy.

Gold and held-out labels are chosen, not met: traffic differs from them without having changed. Knows counts only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.monitoring.drift_traffic import Traffic
from tasks.records import Policy

FIRST_REQUESTS = 500
"""So many requests, and what else came on the day of the last, stand for traffic where no audited sample does."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Counts as in `Traffic`, of all days together.

    Attributes:
        words: which requests they are, to end a sentence with.
        items: how many.
        answered: of those by the student.
        scores: int [bins].
        familiarity: int [bins]; None where the student keeps no prototypes.
        labels: int [labels], in the order of the traffic's names.
    """

    words: str
    items: int
    answered: int
    scores: NDArray[np.int64]
    familiarity: NDArray[np.int64] | None
    labels: NDArray[np.int64]


def is_of_traffic(policy: Policy) -> bool:
    """Whether audited cache misses certified it: gold is not, and held-out labels, judged out of fold, are not."""
    return policy.against == "adjudicated" or (policy.against == "teacher" and not policy.cross_fitted)


def certified_sample(policy: Policy, names: list[str]) -> Reference:
    """The sample that certified a policy, which has a profile."""
    profile = policy.calibration_profile
    assert profile is not None
    familiarity = profile["familiarity"]
    return Reference(
        "in calibration",
        policy.calibration_items,
        round((policy.certified_coverage + policy.partial_coverage) * policy.calibration_items),
        np.asarray(profile["scores"]["counts"], np.int64),
        None if familiarity is None else np.asarray(familiarity["counts"], np.int64),
        np.array([profile["labels"].get(name, 0) for name in names], np.int64),
    )


def first_requests(traffic: Traffic) -> tuple[Reference, Traffic] | None:
    """The first `FIRST_REQUESTS`, to the end of their day, and the traffic of the days after; None before those."""
    seen = traffic.requests.cumsum()
    days = int(np.searchsorted(seen, FIRST_REQUESTS)) + 1
    if days >= len(seen):
        return None
    familiarity = traffic.familiarity
    reference = Reference(
        f"among the first {seen[days - 1]:,}",
        int(seen[days - 1]),
        int(traffic.answered[:days].sum()),
        traffic.scores[:days].sum(axis=0),
        None if familiarity is None else familiarity[:days].sum(axis=0),
        traffic.labels[:days].sum(axis=0),
    )
    rest = replace(
        traffic,
        first_day=traffic.first_day + days,
        requests=traffic.requests[days:],
        answered=traffic.answered[days:],
        scores=traffic.scores[days:],
        familiarity=None if familiarity is None else familiarity[days:],
        labels=traffic.labels[days:],
    )
    return reference, rest
