"""The cascade: exactly one tier answers each request, and each request is one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.records import text_key
from tasks.routing.audit import coin
from tasks.routing.cascade import InForce, TeacherAnswer, cleared, route_shard
from tasks.student.package import Answers

LEVELS = ("department", "category")
OTHER = "none of these"
LABELS = ["Kitchen > Kettles", "Kitchen > Knives", "Garden > Hoses", OTHER]
THRESHOLDS = {"department": 0.5, "category": 0.75}


class Asked:
    """A teacher who says what is written down, and remembers who was asked about what."""

    def __init__(self, said: Mapping[bytes, TeacherAnswer]) -> None:
        self.said, self.calls = said, []  # type: ignore[var-annotated]

    def __call__(self, keys: list[bytes], stage: str) -> dict[bytes, TeacherAnswer]:
        self.calls.append((stage, list(keys)))
        return {key: self.said[key] for key in keys if key in self.said}

    def keys(self, stage: str | None = None) -> list[bytes]:
        return [key for called, keys in self.calls for key in keys if stage in (None, called)]


def requests(names: list[str]) -> pl.DataFrame:
    """One request a row; the name is the content, each row has an id of its own."""
    return pl.DataFrame(
        {"key": [text_key(name) for name in names], "source_id": [f"row-{n}" for n in range(len(names))]},
        schema={"key": pl.Binary, "source_id": pl.String},
    )


def says(labels: list[str], confidences: list[tuple[float, float]]) -> Answers:
    return Answers(
        labels,
        np.array([LABELS.index(label) for label in labels], np.int32),
        np.array(confidences, np.float32).reshape(-1, len(LEVELS)),
    )


def in_force(**other: Any) -> InForce:
    settings = {
        "model_version": "1", "policy_id": 1, "thresholds": THRESHOLDS, "audit_rate": 0.0,
        "audit_secret": "secret", "fallback": "student",
    }  # fmt: skip
    return InForce(**settings | other)  # type: ignore[arg-type]


def teacher(names: list[str], label: str = LABELS[2], cost_usd: float = 0.01) -> Asked:
    return Asked({text_key(name): TeacherAnswer(label, cost_usd) for name in names})


def route(
    names: list[str],
    ask: Asked,
    answers: Answers | None = None,
    cache: Mapping[bytes, str] | None = None,
    valid: list[str] | None = None,
    **terms: Any,
) -> list[dict[str, Any]]:
    return route_shard(requests(names), cache or {}, answers, LEVELS, OTHER, in_force(**terms), ask, valid)


@st.composite
def traffic(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12))
    distinct = sorted(set(names))
    of_name = {
        name: (
            draw(st.sampled_from(LABELS)),
            (top := draw(st.floats(0, 1)), draw(st.floats(0, top))),
        )
        for name in distinct
    }
    cached = draw(st.sets(st.sampled_from(distinct)))
    said = {
        name: draw(st.one_of(st.none(), st.sampled_from(LABELS))) for name in distinct if draw(st.booleans())
    }
    return {
        "names": names,
        "answers": says([of_name[name][0] for name in names], [of_name[name][1] for name in names]),
        "cache": {text_key(name): LABELS[0] for name in cached},
        "ask": Asked(
            {
                text_key(name): TeacherAnswer(label, 0.01, 0.1, None if label else "invalid")
                for name, label in said.items()
            }
        ),
        "terms": {
            "thresholds": draw(st.sampled_from([None, THRESHOLDS])),
            "partial_thresholds": draw(st.sampled_from([None, {"department": 0.6}])),
            "audit_rate": draw(st.sampled_from([0.0, 0.5, 1.0])),
            "fallback": draw(st.sampled_from(["student", "refuse"])),
        },
    }  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(case=traffic())
def test_exactly_one_tier_answers_and_exactly_one_row_is_logged(case: dict[str, Any]) -> None:
    """Whatever is cached, sure, watched or broken: one row a request, in order, by the first tier that may."""
    ask, answers, terms = case["ask"], case["answers"], case["terms"]
    rows = route(case["names"], ask, answers, case["cache"], **terms)
    assert [row["source_id"] for row in rows] == [f"row-{n}" for n in range(len(case["names"]))]
    assert len({row["request_id"] for row in rows}) == len(rows)
    sure = cleared(answers, LEVELS, terms["thresholds"], OTHER)
    stops = terms["thresholds"] is not None and terms["partial_thresholds"] is not None
    for place, row in enumerate(rows):
        key, said = row["key"], ask.said.get(row["key"])
        heard = said.label if said else None
        if key in case["cache"]:
            assert (row["tier"], row["label"]) == ("exact_cache", case["cache"][key])
        elif sure[place]:
            assert (row["tier"], row["label"]) == ("student", answers.labels[place])
            assert answers.labels[place] != OTHER
            assert row["confidence"] == pytest.approx(answers.confidence[place])
        elif stops and answers.labels[place] != OTHER and answers.scores[place, 0] >= 0.6:
            assert (row["tier"], row["label"]) == ("student", answers.labels[place].split(" > ")[0])
            assert row["confidence"] == pytest.approx(answers.confidences[place, 0])
        elif heard is not None:
            assert (row["tier"], row["label"], row["would_tier"]) == ("teacher", heard, "teacher")
        else:
            fallen = answers.labels[place] if terms["fallback"] == "student" else None
            assert (row["tier"], row["label"], row["would_tier"]) == ("fallback", fallen, "teacher")
        if row["tier"] != "student":
            assert row["confidence"] is None
        assert row["student_label"] == answers.labels[place], "the student's answer is always logged"
        assert row["audited"] == coin(row["request_id"], "secret", terms["audit_rate"])
        assert row["audit_owed"] == (row["audited"] and heard is None)
        assert row["teacher_label"] == (heard if row["audited"] or row["would_tier"] == "teacher" else None)
    wanted = {row["key"] for row in rows if row["audited"] or row["would_tier"] == "teacher"}
    assert sorted(ask.keys()) == sorted(wanted), "each item is asked once, and only what must be"
    paid = sum(row["cost_usd"] for row in rows)
    assert paid == pytest.approx(0.01 * sum(key in ask.said for key in wanted)), "and charged once"


def test_the_students_other_is_never_an_answer() -> None:
    """However sure the student is that an item is none of these, the teacher is asked."""
    ask = teacher(["odd"])
    [row] = route(["odd"], ask, says([OTHER], [(1.0, 1.0)]))
    assert (row["tier"], row["label"], row["student_label"]) == ("teacher", LABELS[2], OTHER)


@pytest.mark.parametrize(
    ("confidences", "tier"), [((0.5, 0.75), "student"), ((0.49, 0.9), "teacher"), ((0.9, 0.74), "teacher")]
)
def test_every_level_must_clear_its_own_threshold(confidences: tuple[float, float], tier: str) -> None:
    """Reaching a threshold is enough; missing one at any level escalates."""
    [row] = route(["a"], teacher(["a"]), says([LABELS[0]], [confidences]))
    assert row["tier"] == tier


@pytest.mark.parametrize(
    "answers", [None, says([LABELS[0]] * 2, [(1.0, 1.0)] * 2)], ids=["no champion", "no policy"]
)
def test_without_thresholds_everything_goes_to_the_teacher(answers: Answers | None) -> None:
    """No champion, or a champion without a certificate: the student answers nothing."""
    ask = teacher(["a", "b"])
    rows = route(["a", "b"], ask, answers, thresholds=None)
    assert [row["tier"] for row in rows] == ["teacher", "teacher"]
    assert ask.keys("route") == [text_key("a"), text_key("b")]


def test_an_unfamiliar_item_goes_to_the_teacher_and_keeps_its_confidence() -> None:
    """Thresholds are laid on the score: what lowers it escalates; the log has the confidence and the familiarity."""
    answers = replace(says([LABELS[0]] * 2, [(0.9, 0.8)] * 2), familiarity=np.array([1, 0.1], np.float32))
    usual, strange = route(["a", "b"], teacher(["b"]), answers)
    assert (usual["tier"], strange["tier"]) == ("student", "teacher")
    assert usual["student_confidences"] == strange["student_confidences"]
    assert (usual["familiarity"], strange["familiarity"]) == (1, pytest.approx(0.1))
    [plain] = route(["a"], teacher(["a"]), says([LABELS[0]], [(0.9, 0.8)]))
    assert plain["familiarity"] is None


def test_an_answer_may_stop_where_only_upper_levels_are_sure() -> None:
    """The levels that are stated, and their confidence; a path of one level is answered whole or not at all."""
    answers = says([LABELS[0], LABELS[1], OTHER], [(0.9, 0.5), (0.5, 0.5), (0.9, 0.5)])
    ask = teacher(["b", "c"])
    rows = route(["a", "b", "c"], ask, answers, partial_thresholds={"department": 0.8})
    assert [(row["tier"], row["label"], row["student_label"]) for row in rows] == [
        ("student", "Kitchen", LABELS[0]),
        ("teacher", LABELS[2], LABELS[1]),
        ("teacher", LABELS[2], OTHER),
    ]
    assert rows[0]["confidence"] == pytest.approx(0.9)
    assert ask.keys() == [text_key("b"), text_key("c")], "a partial answer is an answer: nobody is asked"
    first = answers.take(np.array([0]))
    [gone] = route(["a"], teacher(["a"]), first, valid=LABELS[1:], partial_thresholds={"department": 0.8})
    assert gone["tier"] == "teacher"


def test_a_cached_answer_wins_over_a_sure_student() -> None:
    """What people or passes settled is not asked of anybody again."""
    ask = teacher([])
    [row] = route(["a"], ask, says([LABELS[0]], [(1.0, 1.0)]), {text_key("a"): LABELS[1]})
    assert (row["tier"], row["label"]) == ("exact_cache", LABELS[1])
    assert ask.calls == []


def test_audited_rows_keep_their_tiers_answer_and_store_the_teachers_beside() -> None:
    """Heads changes what is known about an answer, never the answer."""
    names = ["cached", "sure", "unsure"]
    ask = teacher(names)
    answers = says([LABELS[0]] * 3, [(1.0, 1.0), (1.0, 1.0), (0.1, 0.1)])
    rows = route(names, ask, answers, {text_key("cached"): LABELS[1]}, audit_rate=1.0)
    assert [(row["tier"], row["label"], row["teacher_label"]) for row in rows] == [
        ("exact_cache", LABELS[1], LABELS[2]),
        ("student", LABELS[0], LABELS[2]),
        ("teacher", LABELS[2], LABELS[2]),
    ]
    assert ask.keys("audit") == [text_key("cached"), text_key("sure")]
    assert ask.keys("route") == [text_key("unsure")]


@pytest.mark.parametrize(("fallback", "label"), [("student", LABELS[0]), ("refuse", None)])
def test_a_teacher_that_is_down_leaves_a_marked_fallback_and_owes_its_audits(
    fallback: str, label: str | None
) -> None:
    """Escalations fall back in the stated way; an audit nobody answered stays owed; the student goes on answering."""
    answers = says([LABELS[0]] * 2, [(0.1, 0.1), (1.0, 1.0)])
    rows = route(["unsure", "sure"], Asked({}), answers, audit_rate=1.0, fallback=fallback)
    assert [(row["tier"], row["would_tier"], row["label"]) for row in rows] == [
        ("fallback", "teacher", label),
        ("student", "student", LABELS[0]),
    ]
    assert [row["audit_owed"] for row in rows] == [True, True]
    assert [row["teacher_label"] for row in rows] == [None, None]


def test_a_label_that_left_the_taxonomy_is_not_answered() -> None:
    """A student trained on an older taxonomy neither answers nor falls back with a label that is no more."""
    answers = says([LABELS[0], LABELS[1]], [(1.0, 1.0)] * 2)
    rows = route(["gone", "kept"], Asked({}), answers, valid=LABELS[1:])
    assert [(row["tier"], row["label"]) for row in rows] == [("fallback", None), ("student", LABELS[1])]
    assert rows[0]["student_label"] == LABELS[0], "what it said is logged all the same"


def test_what_the_student_could_not_read_it_does_not_answer() -> None:
    """However sure it sounds: the teacher answers, and nothing is logged as the student's word."""
    answers = says([LABELS[0]] * 2, [(1.0, 1.0)] * 2)
    rows = route_shard(
        requests(["a", "b"]), {}, answers, LEVELS, OTHER, in_force(thresholds=dict.fromkeys(LEVELS, 0.0)),
        teacher(["b"]), unread={1},
    )  # fmt: skip
    assert [row["tier"] for row in rows] == ["student", "teacher"]
    assert [row["student_label"] for row in rows] == [LABELS[0], None]
    assert rows[1]["student_confidences"] is None
