"""Independent passes against a real HTTP server: settings by pass, a last vote where they differ, what is kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from sqlalchemy import func, select

from tasks.errors import ConfigError
from tasks.labeling.asking import Asking, OtherPass, asking_teacher
from tasks.labeling.budget import Price
from tasks.labeling.labelling import label_items
from tasks.labeling.ledger import current_answers
from tasks.labeling.requests import Item, Request
from tasks.labeling.review_queue import review_queue, with_contents
from tasks.labeling.teacher import OpenAITeacher
from tasks.project import load_project
from tasks.records import Labelled, text_key
from tasks.store import Store, schema
from tasks.store.labels import disputed_keys, effective_labels, raw_labels, upper_labels
from tests.labeling.scripted import (
    HOSES,
    KETTLES,
    KEY,
    KNIVES,
    NO_KEYS,
    Said,
    ScriptedTeacher,
    fails,
    how,
    put_texts,
    says,
    taxonomy,
)

TEXTS = [f"product {number}" for number in range(12)]


def _label(store: Store, asked: Asking, **more: object) -> Labelled:
    settings = {"passes": 2, "budget_usd": None, "gold_keys": NO_KEYS, "run_id": 1} | more
    return label_items(store, asked, **settings)  # type: ignore[arg-type]


def _number(text: str) -> int:
    return int(text.split()[1])


def _differing(item: str, number: int, asked: int) -> Said:
    """Of twelve items three are knives in the second pass, and three are of the garden; a later pass says kettles."""
    if number == 2 and _number(item) % 4 == 0:
        return says(KNIVES)
    if number == 2 and _number(item) % 4 == 1:
        return says(HOSES)
    return says(KETTLES)


def _with_passes(asked: Asking, base_url: str, other: OtherPass) -> Asking:
    """The second pass with another model and temperature, as `asking` connects it."""
    by_pass = {2: (other.model, other.temperature)}
    return replace(
        asked,
        by_pass={2: other},
        connect=lambda: OpenAITeacher(base_url, KEY, asked.model, 0.0, 100, 10.0, 8, by_pass),
    )


def test_a_pass_may_have_another_model_and_temperature(store: Store) -> None:
    """Its answers and calls bear that model, it costs that model's price, and a change asks this pass alone again."""
    put_texts(store, TEXTS)
    with ScriptedTeacher(_differing) as teacher:
        plain = how(teacher.base_url)
        asked = _with_passes(plain, teacher.base_url, OtherPass("other-model", 0.7, Price(10.0, 0.0)))
        done = _label(store, asked)
        sent = {body["seed"]: (body["model"], body["temperature"]) for body in teacher.bodies}
        assert sent == {1: ("some-model", 0.0), 2: ("other-model", 0.7)}
        assert _label(store, asked).calls == 0
        warmer = _with_passes(plain, teacher.base_url, OtherPass("other-model", 0.9, Price(10.0, 0.0)))
        assert _label(store, warmer).calls == 12
        assert {body["seed"] for body in teacher.bodies[24:]} == {2}
        # Back to one model for both: the first pass was asked that way, the second was not.
        assert _label(store, plain).calls == 12
    assert (done.labelled, done.disagreed, done.calls) == (6, 6, 24)
    calls = schema.calls.c
    costs = dict(
        store.read(
            select(calls.model, func.sum(calls.cost_usd).label("cost"))
            .where(calls.id <= 24)
            .group_by(calls.model)
        ).iter_rows()
    )
    assert costs == {"some-model": pytest.approx(12 * 0.84e-3), "other-model": pytest.approx(12 * 10e-3)}
    kept = current_answers(store, asked.version)
    assert kept.group_by("pass").len().sort("pass").rows() == [(1, 12), (2, 12)]


def test_a_third_vote_is_cast_only_where_two_differ(store: Store) -> None:
    put_texts(store, TEXTS)
    with ScriptedTeacher(_differing) as teacher:
        asked = replace(how(teacher.base_url), third_vote=True)
        done = _label(store, asked)
        assert Counter(body["seed"] for body in teacher.bodies) == {1: 12, 2: 12, 3: 6}
        assert _label(store, asked).calls == 0
    assert (done.items, done.labelled, done.disagreed, done.partial, done.tie_breaks) == (12, 12, 0, 0, 6)
    assert set(effective_labels(store).select("label", "source").iter_rows()) == {(KETTLES, "consensus")}
    stages = select(schema.calls.c.stage, func.count().label("calls")).group_by(schema.calls.c.stage)
    assert dict(store.read(stages).iter_rows()) == {"label": 24, "tie_break": 6}
    # The agreement told is of the two independent passes, not of the vote that was cast knowing that they differ.
    assert done.agreement == pytest.approx(0.5)
    assert done.agreement_by_level == {
        "l1": pytest.approx(0.75),
        "l2": pytest.approx(0.5),
        "l3": pytest.approx(0.5),
    }
    assert done.agreement_by_label == {HOSES: 0.0, KETTLES: 0.5, KNIVES: 0.0}
    assert done.kappa == 0.0


def test_disagreements_from_before_get_their_last_vote_when_there_is_one(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(_differing) as teacher:
        first = _label(sqlite_store, how(teacher.base_url))
        again = _label(sqlite_store, replace(how(teacher.base_url), third_vote=True))
        assert teacher.requests == 24 + 6
    assert (first.labelled, first.disagreed, first.partial) == (6, 6, 3)
    assert (again.items, again.labelled, again.tie_breaks) == (6, 6, 6)
    assert effective_labels(sqlite_store).height == 12


def _breaker(base_url: str, **more: Any) -> Asking:
    return replace(how(base_url, model="stronger", structured=False, **more), price=Price(100.0, 0.0))


def test_a_stronger_model_breaks_ties_at_its_own_price_and_under_its_own_version(store: Store) -> None:
    """It has an address, a price and a prompt version of its own; what it leaves open goes to review."""
    put_texts(store, TEXTS)

    def strong(item: str, number: int, asked: int) -> Said:
        return says(HOSES if _number(item) % 4 == 0 else KETTLES if _number(item) == 1 else KNIVES)

    with ScriptedTeacher(_differing) as teacher, ScriptedTeacher(strong) as stronger:
        asked = replace(how(teacher.base_url), tie_breaker=_breaker(stronger.base_url))
        done = _label(store, asked)
        assert (teacher.requests, stronger.requests) == (24, 6)
        assert {(body["model"], body["seed"]) for body in stronger.bodies} == {("stronger", 3)}
        assert _label(store, asked).calls == 0
        # Another tie-breaker is another key: only its votes are asked for.
        other = replace(_breaker(stronger.base_url), temperature=0.5)
        assert _label(store, replace(asked, tie_breaker=other)).calls == 6
    assert done.cost_usd == pytest.approx(24 * 0.84e-3 + 6 * 0.1)
    labels = dict(effective_labels(store).select("key", "label").iter_rows())
    assert labels[text_key(TEXTS[1])] == KETTLES
    # kettles, knives, hoses: two of three are of the kitchen. kettles, hoses, knives: so are these.
    open_keys = set(disputed_keys(store)["key"])
    assert open_keys == {text_key(text) for text in TEXTS if _number(text) % 4 < 2 and text != TEXTS[1]}
    assert set(upper_labels(raw_labels(store)).iter_rows()) == {(key, "Kitchen") for key in open_keys}
    assert (done.labelled, done.disagreed, done.partial, done.unlabelled_left) == (7, 5, 5, 0)


def test_upper_levels_on_which_passes_agree_are_kept(store: Store) -> None:
    """The path they share is a raw label of its own source, never one that anybody could take for a leaf."""
    put_texts(store, TEXTS)
    with ScriptedTeacher(_differing) as teacher:
        done = _label(store, how(teacher.base_url))
    kitchen = {text_key(text) for text in TEXTS if _number(text) % 4 == 0}
    apart = {text_key(text) for text in TEXTS if _number(text) % 4 == 1}
    assert (done.labelled, done.disagreed, done.partial, done.unlabelled_left) == (6, 6, 3, 0)
    raw = raw_labels(store)
    assert set(raw.filter(pl.col("source") == "partial").select("key", "label").iter_rows()) == {
        (key, "Kitchen") for key in kitchen
    }
    assert set(raw.filter(pl.col("source") == "disagreed")["key"]) == apart
    assert set(disputed_keys(store)["key"]) == kitchen | apart
    assert not set(effective_labels(store)["key"]) & (kitchen | apart)
    queue = pl.concat(list(with_contents(store, review_queue(store, taxonomy(), 2))))
    assert set(queue.select("key", "why", "current_label").iter_rows()) >= {
        *((key, "passes differ", "Kitchen") for key in kitchen),
        *((key, "passes differ", None) for key in apart),
    }


def test_a_last_vote_that_is_refused_leaves_the_item_to_review(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with (
        ScriptedTeacher(_differing) as teacher,
        ScriptedTeacher(
            lambda item, *_: fails(400, "no") if _number(item) % 4 == 0 else says(KETTLES)
        ) as stronger,
    ):
        asked = replace(how(teacher.base_url), tie_breaker=_breaker(stronger.base_url))
        done = _label(sqlite_store, asked)
        assert _label(sqlite_store, asked).calls == 0
    assert (done.labelled, done.disagreed, done.partial, done.invalid, done.unlabelled_left) == (
        9,
        3,
        3,
        0,
        0,
    )


def test_a_tie_breaker_that_cannot_be_asked_costs_no_label_of_the_passes(sqlite_store: Store) -> None:
    """What the passes agree on is written before the run says what was wrong; the next run goes on from there."""
    from tasks.errors import FatalTeacherError

    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(_differing) as teacher, ScriptedTeacher(lambda *_: fails(401)) as stronger:
        asked = replace(how(teacher.base_url), tie_breaker=_breaker(stronger.base_url))
        with pytest.raises(FatalTeacherError):
            _label(sqlite_store, asked)
        assert effective_labels(sqlite_store).height == 6
        assert stronger.requests == 1
    with ScriptedTeacher(lambda *_: says(KETTLES)) as stronger:
        again = _label(sqlite_store, replace(asked, tie_breaker=_breaker(stronger.base_url)))
    assert (again.labelled, again.calls) == (6, 6)


def test_the_budget_holds_for_both_models_together(sqlite_store: Store) -> None:
    """What the passes have spent is no longer there for the last votes; their labels are written all the same."""
    put_texts(sqlite_store, TEXTS)
    said = json.dumps({"label": "Kettles"})
    tokens = {"prompt_tokens": 200, "completion_tokens": 1}
    with (
        ScriptedTeacher(_differing) as teacher,
        ScriptedTeacher(lambda *_: Said(said, usage=tokens)) as stronger,
    ):
        asked = replace(how(teacher.base_url), tie_breaker=_breaker(stronger.base_url))
        request = Request((Item(text_key(TEXTS[0]), TEXTS[0]),), 3)
        most_usd = 100.0 * _breaker("").prompt.most_tokens(request) / 1e6
        budget_usd = 24 * 0.84e-3 + 0.05 + most_usd
        done = _label(sqlite_store, asked, budget_usd=budget_usd)
        assert 2 <= stronger.requests <= 4
        assert (done.labelled, done.disagreed) == (6 + stronger.requests, 6 - stronger.requests)
    assert done.stopped == "budget"
    assert done.cost_usd <= budget_usd


def test_a_project_says_how_passes_differ_and_who_breaks_ties(
    tiny_project: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the YAML to the terms: prices come from the table where a model has none of its own."""
    file = tiny_project(
        prices={"warm-model": {"input": 7.0}, "strong": {"input": 9.0, "output": 90.0}},
        teacher={
            "by_pass": {2: {"temperature": 0.8}, 3: {"model": "warm-model"}},
            "passes": 3,
            "requests_per_minute": 100,
            "tokens_per_minute": 1000,
            "tie_breaker": {"model": "strong", "base_url": "http://127.0.0.1:9/v1", "concurrency": 2},
        },
        labeling={"prompt": {"items_per_call": 5, "stages": 2}},
    )
    asked = asking_teacher(load_project(file))
    assert asked.by_pass[2] == OtherPass("tiny-teacher", 0.8, asked.price)
    assert asked.by_pass[3] == OtherPass("warm-model", 0.0, Price(7.0))
    assert (asked.requests_per_minute, asked.tokens_per_minute) == (100, 1000)
    assert (asked.items_per_call, asked.stages) == (5, 2)
    breaker = asked.tie_breaker
    assert breaker is not None
    assert (breaker.model, breaker.price, breaker.concurrency) == ("strong", Price(9.0, 90.0), 2)
    versions = dict(asked.version.by_pass)
    assert sorted(versions) == [2, 3, 4]
    assert versions[4] == breaker.version
    assert len({asked.version.parameters, versions[2].parameters}) == 2
    assert versions[3].model == "warm-model"


def test_a_tie_breaker_without_a_key_is_told_before_anything_is_paid(
    tiny_project: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.labeling.steps import label_with_teacher, take_in_items

    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with ScriptedTeacher(lambda *_: Said(json.dumps({"label": "Kettles"}))) as teacher:
        breaker = {"model": "strong", "base_url": "https://example.org/v1", "api_key_env": "NO_SUCH_KEY"}
        project = load_project(tiny_project(teacher={"base_url": teacher.base_url, "tie_breaker": breaker}))
        take_in_items.fn(project, 1)
        with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
            label_with_teacher.fn(project, 1)
        assert teacher.requests == 0
