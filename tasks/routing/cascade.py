"""Which tier answers: exact cache, the student where it is sure enough, the teacher, a stated fallback.

Pure decisions on one shard of requests. Who the teacher is, how an item is encoded and where the log lies is
the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.routing.audit import coin
from tasks.store.traffic import request_id, row_id
from tasks.student.package import Answers
from tasks.student.partial import stated_depths
from tasks.student.thresholds import accepts
from tasks.taxonomy import SEPARATOR, truncate

CACHE, STUDENT, TEACHER, FALLBACK = "exact_cache", "student", "teacher", "fallback"
Ask = Callable[[list[bytes], str], Mapping[bytes, "TeacherAnswer"]]


@dataclass(frozen=True)
class TeacherAnswer:
    """What the teacher said about one item: a label, or none and why; what it cost."""

    label: str | None
    cost_usd: float = 0.0
    latency_seconds: float = 0.0
    error_class: str | None = None


@dataclass(frozen=True)
class InForce:
    """The model version and policy that route, and how requests are watched."""

    model_version: str | None
    policy_id: int | None
    thresholds: Mapping[str, float] | None
    audit_rate: float
    audit_secret: str
    fallback: str
    partial_thresholds: Mapping[str, float] | None = None


def cleared(
    answers: Answers, levels: Sequence[str], thresholds: Mapping[str, float] | None, other: str | None
) -> list[bool]:
    """Whether every level's score reaches its threshold; never without thresholds, never for `other`."""
    return accepts(answers.scores, _in_order(thresholds, levels), _never(answers, other)).tolist()


def stated(answers: Answers, levels: Sequence[str], in_force: InForce, other: str | None) -> list[int]:
    """At how many levels the student answers each item: all of its path where it is `cleared`, else fewer, or 0.

    Fewer only where the policy has thresholds for that.
    """
    wanted = _in_order(in_force.thresholds, levels)
    upper = _in_order(in_force.partial_thresholds, levels[:-1])
    return stated_depths(answers.scores, answers.depths, wanted, upper, _never(answers, other)).tolist()


def _in_order(thresholds: Mapping[str, float] | None, levels: Sequence[str]) -> tuple[float, ...] | None:
    return None if thresholds is None else tuple(thresholds[level] for level in levels)


def _never(answers: Answers, other: str | None) -> NDArray[np.bool_]:
    return np.asarray(np.array(answers.labels, object) == other, bool)


def route_shard(
    items: pl.DataFrame,
    cache: Mapping[bytes, str],
    answers: Answers | None,
    levels: Sequence[str],
    other: str | None,
    in_force: InForce,
    ask: Ask,
    valid: Collection[str] | None = None,
    unread: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Route requests; returns one row of the traffic table each (without run and time), in order.

    Exactly one tier answers each request. The coin is tossed before any tier looks; heads stores the
    teacher's answer beside the tier's own. One item asked twice in a shard is asked of the teacher once.

    Args:
        items: key, source_id; one row a request.
        cache: label by key for the exact cache, valid under the current taxonomy.
        answers: the student's, row by row; None when there is no champion.
        levels: names of the levels, from the root down.
        other: the label that is always escalated.
        in_force: what routes.
        ask: (keys, stage) to the teacher's answers; a key may lack.
        valid: labels that the student may answer with, where its taxonomy is older than the project's; None is all.
        unread: places of items that the student could not read, whatever `answers` say there.
    """
    depths = stated(answers, levels, in_force, other) if answers else [0] * items.height
    if answers and valid is not None:
        depths = [depth * (label in valid) for depth, label in zip(depths, answers.labels, strict=True)]
    depths = [depth * (place not in unread) for place, depth in enumerate(depths)]
    rows = [
        _decide(
            position, key, source_id, cache, None if position in unread else answers, levels, in_force, depth
        )
        for position, (key, source_id, depth) in enumerate(
            zip(
                items["key"].to_list(),
                items["source_id"].to_list(),
                depths,
                strict=True,
            )
        )
    ]
    escalated = list(dict.fromkeys(row["key"] for row in rows if row["tier"] == TEACHER))
    audited = list(
        dict.fromkeys(row["key"] for row in rows if row["audited"] and row["key"] not in set(escalated))
    )
    said = {**(ask(escalated, "route") if escalated else {}), **(ask(audited, "audit") if audited else {})}
    charged: set[bytes] = set()
    for row in rows:
        if row["tier"] == TEACHER or row["audited"]:
            may_fall_back = in_force.fallback == "student" and (
                valid is None or row["student_label"] in valid
            )
            _take_teacher(row, said.get(row["key"]), may_fall_back, charged)
    return rows


def _decide(
    position: int,
    key: bytes,
    source_id: str,
    cache: Mapping[bytes, str],
    answers: Answers | None,
    levels: Sequence[str],
    in_force: InForce,
    depth: int,
) -> dict[str, Any]:
    row = row_id(source_id, key)
    request = request_id(row, in_force.model_version, in_force.policy_id)
    tier = CACHE if key in cache else STUDENT if depth else TEACHER
    student_label = answers.labels[position] if answers else None
    said, confidence = None, None
    if tier == CACHE:
        said = cache[key]
    elif tier == STUDENT and answers and student_label:
        whole = depth > student_label.count(SEPARATOR)
        said = student_label if whole else truncate(student_label, depth)
        confidence = float(answers.confidences[position, -1 if whole else depth - 1])
    return {
        "request_id": request,
        "row_id": row,
        "key": key,
        "source_id": source_id,
        "tier": tier,
        "would_tier": tier,
        "label": said,
        "confidence": confidence,
        "student_label": student_label,
        "student_confidences": (
            {level: float(c) for level, c in zip(levels, answers.confidences[position], strict=True)}
            if answers
            else None
        ),
        "familiarity": (
            float(answers.familiarity[position]) if answers and answers.familiarity is not None else None
        ),
        "cheap_label": None,
        "teacher_label": None,
        "audited": coin(request, in_force.audit_secret, in_force.audit_rate),
        "audit_probability": in_force.audit_rate,
        "audit_owed": False,
        "policy_id": in_force.policy_id,
        "model_version": in_force.model_version,
        "latency_seconds": 0.0,
        "cost_usd": 0.0,
    }


def _take_teacher(
    row: dict[str, Any], answer: TeacherAnswer | None, may_fall_back: bool, charged: set[bytes]
) -> None:
    label = answer.label if answer else None
    if answer and row["key"] not in charged:
        row["cost_usd"], row["latency_seconds"] = answer.cost_usd, answer.latency_seconds
        charged.add(row["key"])
    row["teacher_label"] = label
    row["audit_owed"] = bool(row["audited"] and label is None)
    if row["tier"] != TEACHER:
        return
    row["label"] = label
    if label is None:
        row["tier"] = FALLBACK
        row["label"] = row["student_label"] if may_fall_back else None
