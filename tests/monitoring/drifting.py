"""Traffic under a policy, drawn like its calibration sample or otherwise, logged as routing logs it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tasks.records import Policy
from tasks.store import Store, schema
from tasks.student.calibration_profile import calibration_profile
from tasks.student.package import Answers
from tests.monitoring.filled import DAY, HOSES, KETTLES, KNIVES, a_policy, key, request

LABELS = (KETTLES, KNIVES, HOSES)
LEVELS = ("department", "category")
START = 20_000 * DAY
"""A midnight."""


def drawn(
    random: np.random.Generator, items: int, mix: Sequence[float] = (0.5, 0.3, 0.2), sure: float = 6.0,
    near: float = 1.0, prototypes: bool = True,
) -> Answers:  # fmt: skip
    """Answers with that mix of labels; confidences of Beta(sure, 2), familiarities around `near`."""
    labels = [LABELS[place] for place in random.choice(3, items, p=mix)]
    deep = random.beta(sure, 2, items)
    familiarity = np.exp(random.normal(np.log(near), 0.3, items)).astype(np.float32) if prototypes else None
    confidences = np.column_stack([np.sqrt(deep), deep]).astype(np.float32)
    return Answers(labels, np.zeros(items, np.int32), confidences, familiarity)


def certified_on(answers: Answers, threshold: float = 0.6, **other: Any) -> Policy:
    """A policy that answers from a threshold of the deepest level on, calibrated on adjudicated traffic like that."""
    covered = float((answers.scores[:, -1] >= threshold).mean())
    made = a_policy(
        thresholds=dict.fromkeys(LEVELS, threshold), certified_coverage=covered,
        calibration_items=len(answers.labels), calibration_profile=calibration_profile(answers),
        against="adjudicated",
    )  # fmt: skip
    return replace(made, **other)


def log_traffic(
    store: Store,
    answers: Answers,
    policy: Policy,
    day: int,
    audited: bool = False,
    wrong: int = 0,
    name: str = "t",
) -> None:
    """Log answers as cache misses of that day; those of the first `wrong` that are answered, audited, are wrong."""
    thresholds = policy.thresholds or {}
    answered = answers.scores[:, -1] >= thresholds.get("category", 2.0)
    left, rows = wrong, []
    for place, label in enumerate(answers.labels):
        tier = "student" if answered[place] else "teacher"
        teacher = label
        if tier == "student" and left:
            teacher, left = LABELS[(LABELS.index(label) + 1) % 3], left - 1
        sure = [float(one) for one in answers.confidences[place]]
        rows.append(
            request(f"{name}-{day}-{place}", tier, label)
            | {
                "student_label": label,
                "student_confidences": json.dumps(dict(zip(LEVELS, sure, strict=True))),
                "familiarity": None if answers.familiarity is None else float(answers.familiarity[place]),
                "audited": audited,
                "teacher_label": teacher if audited else None,
                "policy_id": policy.id,
                "request_id": key(f"{name}-{day}-{place}"),
                "at": START + day * DAY + place,
                "run_id": 1,
            }
        )
    store.append(schema.traffic, rows)
