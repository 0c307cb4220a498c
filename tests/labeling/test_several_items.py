"""Several items to a call, and calls that follow each other: nobody suffers for a neighbour, nothing is paid twice."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from sqlalchemy import func, select

from tasks.labeling.labelling import label_items
from tasks.labeling.ledger import current_answers
from tasks.labeling.once import ask_once
from tasks.records import Labelled, text_key
from tasks.store import Store, schema
from tasks.store.labels import effective_labels
from tests.labeling.scripted import (
    HOSES,
    KETTLES,
    KNIVES,
    NO_KEYS,
    Said,
    SeveralTeacher,
    fails,
    how,
    items_in,
    lists,
    put_texts,
    says,
)

TEXTS = [f"product {number}" for number in range(40)]
GUILTY = TEXTS[3]


def _label(store: Store, asked: object, **more: object) -> Labelled:
    settings = {"passes": 1, "budget_usd": None, "gold_keys": NO_KEYS, "run_id": 1} | more
    return label_items(store, asked, **settings)  # type: ignore[arg-type]


def _kettles(texts: list[str]) -> Said:
    return lists([KETTLES] * len(texts))


def _answers(store: Store) -> dict[bytes, tuple[str | None, str | None]]:
    columns = schema.answers.c
    rows = store.read(select(columns.key, columns.label, columns.error_class))
    assert rows["key"].n_unique() == rows.height
    return {key: (label, error_class) for key, label, error_class in rows.iter_rows()}


def test_ten_items_are_one_call_and_each_answer_points_to_it(store: Store) -> None:
    """In two passes of other groups; what a call costs is shared by its items and counted once."""
    put_texts(store, TEXTS)
    groups: dict[int, list[frozenset[str]]] = {1: [], 2: []}

    def say(texts: list[str], number: int, body: dict[str, Any]) -> Said:
        groups[number].append(frozenset(texts))
        return lists([KNIVES if text == GUILTY and number == 2 else KETTLES for text in texts])

    with SeveralTeacher(say) as teacher:
        asked = how(teacher.base_url, items_per_call=10)
        done = _label(store, asked, passes=2)
        assert teacher.requests == 8
        assert min(body["max_tokens"] for body in teacher.bodies) > 2 * asked.prompt.max_output_tokens
        assert _label(store, asked, passes=2).calls == 0
    assert (done.items, done.labelled, done.disagreed, done.calls) == (40, 39, 1, 8)
    assert not set(groups[1]) & set(groups[2])
    calls, links = schema.calls.c, schema.call_answers.c
    shared = store.read(select(links.call_id, func.count().label("answers")).group_by(links.call_id))
    assert shared["answers"].to_list() == [10] * 8
    assert store.scalar(select(func.sum(calls.cost_usd))) == pytest.approx(done.cost_usd)


@pytest.mark.parametrize(
    ("label", "error_class"),
    [(None, "missing"), ("Toasters", "unknown_label"), ("Kettles or Knives", "two_labels"), ("", "no_label")],
)
def test_one_bad_answer_costs_its_neighbours_nothing(
    sqlite_store: Store, label: str | None, error_class: str
) -> None:
    """The others' answers are kept with that call; the one is asked again in smaller company, last of all alone."""
    keys = put_texts(sqlite_store, TEXTS[:10])
    asked_about: list[int] = []

    def say(texts: list[str], number: int, body: dict[str, Any]) -> Said:
        asked_about.append(len(texts))
        return lists([label if text == GUILTY else " kettles " for text in texts])

    with SeveralTeacher(say) as teacher:
        asked = how(teacher.base_url, items_per_call=10)
        done = _label(sqlite_store, asked)
        again = _label(sqlite_store, asked)
    # A class that may pass is tried three times once the item is alone.
    assert asked_about == [10, *[1] * (3 if error_class in ("missing", "no_label") else 1)]
    assert (done.labelled, done.invalid, done.unlabelled_left) == (9, 1, 1)
    assert (again.items, again.calls) == (0, 0)
    assert _answers(sqlite_store)[keys[3]] == (None, error_class)
    assert effective_labels(sqlite_store)["label"].to_list() == [KETTLES] * 9


def test_a_bad_answer_that_was_only_the_companys_fault_is_made_good(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)

    def say(texts: list[str], number: int, body: dict[str, Any]) -> Said:
        return lists([None if text.endswith("7") and len(texts) > 2 else HOSES for text in texts])

    with SeveralTeacher(say) as teacher:
        done = _label(sqlite_store, how(teacher.base_url, items_per_call=8))
    assert (done.labelled, done.invalid, done.errors) == (40, 0, {"missing": 4})


FAULTS: list[tuple[Callable[[], Said], str]] = [
    (lambda: fails(400, "too long", "context_length_exceeded"), "http_400"),
    (lambda: fails(413), "http_413"),
    (lambda: fails(403, "flagged"), "moderated"),
    (lambda: Said("I cannot", finish="content_filter"), "teacher_refused"),
    (lambda: Said("I would rather not."), "not_json"),
    (lambda: Said(""), "empty"),
    (lambda: Said('{"answers": [{"item', finish="length"), "truncated"),
    (lambda: lists(["Kettles"] * 99), "misnumbered"),
]


@pytest.mark.parametrize(("fault", "error_class"), FAULTS)
def test_a_refused_call_is_halved_down_to_the_guilty_item(
    sqlite_store: Store, fault: Callable[[], Said], error_class: str
) -> None:
    """Over-long, refused or confusing: one item of forty is dead-lettered, thirty-nine are labelled."""
    keys = put_texts(sqlite_store, TEXTS)

    def say(texts: list[str], number: int, body: dict[str, Any]) -> Said:
        if GUILTY not in texts:
            return _kettles(texts)
        said = fault()
        if error_class == "moderated":
            said.body = json.dumps({"error": {"message": "flagged", "metadata": {"reasons": ["violence"]}}})
        return said

    with SeveralTeacher(say) as teacher:
        done = _label(sqlite_store, how(teacher.base_url, items_per_call=10))
        # Three groups of ten, then 10, 5 + 5, 2 + 2 + 1 or the like, and the one alone up to three times.
        assert teacher.requests <= 3 + 1 + 2 + 3 + 2 + 3
    assert (done.labelled, done.invalid, done.failed) == (39, 1, 0)
    assert _answers(sqlite_store)[keys[3]] == (None, error_class)


def test_what_may_pass_is_divided_before_it_is_given_up(sqlite_store: Store) -> None:
    """A gateway's page, or a server that fails over one item: its neighbours are labelled, it is due the next time."""
    for fault in (Said(body="<html>blocked</html>"), fails(500)):
        store_texts = [f"{text} {fault.status}" for text in TEXTS[:10]]
        put_texts(sqlite_store, store_texts)

        def say(
            texts: list[str],
            number: int,
            body: dict[str, Any],
            fault: Said = fault,
            guilty: str = store_texts[3],
        ) -> Said:
            return fault if guilty in texts else _kettles(texts)

        with SeveralTeacher(say) as teacher:
            asked = how(teacher.base_url, items_per_call=10, max_attempts=3)
            done = _label(sqlite_store, asked)
        assert (done.labelled, done.invalid, done.failed, done.unlabelled_left) == (9, 0, 1, 1)
        with SeveralTeacher(lambda texts, *_: _kettles(texts)) as teacher:
            again = _label(sqlite_store, how(teacher.base_url, items_per_call=10))
            assert teacher.requests == 1
        assert (again.labelled, again.unlabelled_left) == (1, 0)


def test_an_image_that_cannot_be_read_does_not_keep_its_neighbours_from_being_sent(
    sqlite_store: Store,
) -> None:
    import io

    from PIL import Image

    from tasks.records import image_key
    from tasks.store.items import append_items

    images = []
    for shade in range(7):
        written = io.BytesIO()
        Image.new("L", (8, 8), shade).save(written, "PNG")
        images.append(written.getvalue())
    images[2] = b"no image at all"
    frame = pl.DataFrame(
        {
            "key": [image_key(image) for image in images],
            "source_id": [str(number) for number in range(7)],
            "text": [None] * 7,
            "image": images,
        },
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary},
    )
    append_items(sqlite_store, frame, "source", 1)

    with SeveralTeacher(lambda *_: Said()) as teacher:
        teacher._said = lambda body: lists(  # type: ignore[method-assign]
            [KETTLES] * sum(part["type"] == "image_url" for part in body["messages"][-1]["content"])
        )
        done = _label(sqlite_store, how(teacher.base_url, modality="image", items_per_call=7))
    assert (done.labelled, done.invalid) == (6, 1)


@pytest.mark.parametrize(("characters", "whole"), [(1_400, True), (2_900, True), (3_100, False)])
def test_a_long_reply_about_twenty_items_is_kept_whole_or_marked(
    sqlite_store: Store, characters: int, whole: bool
) -> None:
    """What can be read is kept to the last character; of what is too long to be read the beginning, and its length."""
    put_texts(sqlite_store, TEXTS[:20])

    def say(texts: list[str], number: int, body: dict[str, Any]) -> Said:
        # The one company of twenty is long-winded, smaller ones are not.
        reason = "r" * (characters - 70 if len(texts) == 20 else 10)
        answers = [
            {"item": place, "label": KETTLES, "confidence": 0.9, "reason": reason}
            for place in range(1, len(texts) + 1)
        ]
        return Said(json.dumps({"answers": answers}))

    with SeveralTeacher(say) as teacher:
        done = _label(sqlite_store, how(teacher.base_url, items_per_call=20))
    assert (done.labelled, done.invalid, done.calls == 1) == (20, 0, whole)
    columns = schema.calls.c
    kept = sqlite_store.read(select(columns.reply, columns.error_class).order_by(columns.id)).row(0)
    if whole:
        assert len(json.loads(kept[0])["answers"]) == 20
    else:
        assert kept[1] == "too_long"
        beginning, _, mark = kept[0].rpartition("\n")
        assert len(beginning) == 60_000
        assert re.fullmatch(r"\[cut: 6\d,\d{3} characters came\]", mark)


def test_a_wrong_address_is_noticed_after_twenty_refusals_of_groups_too(sqlite_store: Store) -> None:
    from tasks.errors import FatalTeacherError

    put_texts(sqlite_store, [f"item {number}" for number in range(2000)])
    with SeveralTeacher(lambda *_: fails(404, "no route")) as teacher:
        with pytest.raises(FatalTeacherError, match="the first 20 requests"):
            _label(sqlite_store, how(teacher.base_url, items_per_call=10))
        assert teacher.requests < 30
    assert not _answers(sqlite_store)


def _staged(texts: list[str], body: dict[str, Any]) -> Said:
    """What a teacher says in stages: every third item is of the garden, every fifth of those is thought not to be."""
    offered = body["response_format"]["json_schema"]["schema"]["properties"]["answers"]["items"]
    labels = offered["properties"]["label"]["enum"]
    return lists([_choice(text, labels) for text in texts])


def _choice(text: str, labels: list[str]) -> str:
    number = int(text.split()[1])
    if "Garden" in labels:
        return "none of these" if number % 10 == 9 else "Garden" if number % 3 == 0 else "Kitchen"
    if "(elsewhere)" in labels:
        return "(elsewhere)" if number % 5 == 0 else "Hoses" if "Hoses" in labels else "Kettles"
    return "Hoses" if number % 3 == 0 else "Knives"


def _wanted(text: str) -> str:
    number = int(text.split()[1])
    if number % 10 == 9:
        return "none of these"
    if number % 5 == 0:
        return HOSES if number % 3 == 0 else KNIVES
    return HOSES if number % 3 == 0 else KETTLES


def test_stages_follow_each_other_without_waiting(sqlite_store: Store) -> None:
    """First the level above, then its branch, then the whole list where the branch did not fit; each kept once."""
    put_texts(sqlite_store, TEXTS)
    with SeveralTeacher(lambda texts, number, body: _staged(texts, body)) as teacher:
        asked = how(teacher.base_url, items_per_call=4, stages=2, concurrency=3)
        done = _label(sqlite_store, asked, passes=2)
        assert _label(sqlite_store, asked, passes=2).calls == 0
    assert (done.labelled, done.disagreed, done.invalid, done.unlabelled_left) == (40, 0, 0, 0)
    labels = dict(effective_labels(sqlite_store).select("key", "label").iter_rows())
    assert labels == {text_key(text): _wanted(text) for text in TEXTS}
    finals = current_answers(sqlite_store, asked.version)
    assert finals.height == 80
    every = sqlite_store.scalar(select(func.count()).select_from(schema.answers))
    branches = sum(int(text.split()[1]) % 10 != 9 for text in TEXTS)
    elsewhere = sum(int(text.split()[1]) % 5 == 0 for text in TEXTS)
    assert every == 2 * (40 + branches + elsewhere)
    assert done.calls == teacher.requests


def test_a_stage_that_was_paid_for_is_not_asked_again(sqlite_store: Store) -> None:
    """A run that ended between the stages goes on in the second."""
    put_texts(sqlite_store, TEXTS)

    def first_only(texts: list[str], number: int, body: dict[str, Any]) -> Said:
        said = _staged(texts, body)
        return said if '"Garden"' in json.dumps(body) else fails(500)

    with SeveralTeacher(first_only) as teacher:
        asked = how(teacher.base_url, items_per_call=4, stages=2, max_attempts=1, concurrency=100)
        first = _label(sqlite_store, asked)
    assert first.unlabelled_left == 36
    firsts = Counter[bool]()

    def say(texts: list[str], number: int, body: dict[str, Any]) -> Said:
        firsts['"Garden"' in json.dumps(body)] += len(texts)
        return _staged(texts, body)

    with SeveralTeacher(say) as teacher:
        again = _label(sqlite_store, how(teacher.base_url, items_per_call=4, stages=2))
    assert firsts[True] == 0
    assert (again.labelled, again.unlabelled_left) == (36, 0)


def test_what_an_item_cost_counts_every_stage(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    contents = pl.DataFrame(
        {"key": [text_key(text) for text in TEXTS], "text": TEXTS, "image": None},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )
    with SeveralTeacher(lambda texts, number, body: _staged(texts, body)) as teacher:
        asked = how(teacher.base_url, items_per_call=4, stages=2)
        said = ask_once(sqlite_store, asked, contents, "route", 2, 1)
    assert said["label"].null_count() == 0
    paid = sqlite_store.scalar(select(func.sum(schema.calls.c.cost_usd)))
    assert said["cost_usd"].sum() == pytest.approx(paid)
    assert all(cost > 0 for cost in said["cost_usd"])


def test_a_single_item_of_a_prompt_for_several_is_answered_as_one_of_one(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS[:1])
    with SeveralTeacher(lambda texts, *_: _kettles(texts)) as teacher:
        assert _label(sqlite_store, how(teacher.base_url, items_per_call=10)).labelled == 1
        assert items_in(teacher.bodies[0]) == TEXTS[:1]
    put_texts(sqlite_store, TEXTS[1:2])
    with SeveralTeacher(lambda *_: says(KETTLES)) as teacher:
        assert _label(sqlite_store, how(teacher.base_url, items_per_call=10)).labelled == 1
