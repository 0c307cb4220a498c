"""What a provider may send instead of an answer, over real HTTP: bounded in bytes and time, and never taken for one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from tasks.labeling.labelling import label_items
from tasks.labeling.teacher import MAX_BODY_BYTES, MAX_DETAIL
from tasks.records import Labelled
from tasks.store import Store, schema
from tasks.store.labels import effective_labels
from tests.labeling.scripted import KETTLES, NO_KEYS, Said, ScriptedTeacher, fails, how, put_texts, says

TEXTS = [f"product {number}" for number in range(5)]
GUILTY = TEXTS[3]
SOCKET_BYTES = 2 * 2**23  # what may be under way between two sockets


def _label(store: Store, asked: object) -> Labelled:
    return label_items(store, asked, 1, None, NO_KEYS, 1)  # type: ignore[arg-type]


def _once(fault: Callable[[], Said]) -> Callable[[str, int, int], Said]:
    return lambda item, number, asked: fault() if asked == 1 and item == GUILTY else says(KETTLES)


def test_a_reply_without_end_is_left_after_a_few_megabytes(sqlite_store: Store) -> None:
    """It is a call that was paid for, its beginning is kept, and the request is tried again."""
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(_once(lambda: Said('{"label"', endless=2**18))) as teacher:
        done = _label(sqlite_store, how(teacher.base_url))
        assert MAX_BODY_BYTES / 2 < teacher.dripped < MAX_BODY_BYTES + SOCKET_BYTES
    assert (done.labelled, done.errors, done.calls) == (5, {"endless": 1}, 6)
    longest = sqlite_store.scalar(select(func.max(func.length(schema.calls.c.reply))))
    assert 100 < longest < 20_000


def test_an_item_that_only_ever_gets_replies_without_end_is_left_for_another_day(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(
        lambda item, *_: Said(endless=2**18) if item == GUILTY else says(KETTLES)
    ) as teacher:
        done = _label(sqlite_store, how(teacher.base_url))
        assert teacher.requests == 4 + 3
    assert (done.labelled, done.failed, done.unlabelled_left) == (4, 1, 1)


def test_an_error_without_end_is_still_that_error(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(_once(lambda: Said(status=500, body='{"error": {}}', endless=2**18))) as teacher:
        done = _label(sqlite_store, how(teacher.base_url))
        assert teacher.dripped < MAX_BODY_BYTES + SOCKET_BYTES
    assert (done.labelled, done.errors) == (5, {"http_500": 1})


def test_a_reply_that_drips_is_bounded_in_time(sqlite_store: Store) -> None:
    """A time-out between bytes would never strike."""
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(_once(lambda: Said('{"label"', endless=1))) as teacher:
        done = _label(sqlite_store, how(teacher.base_url, timeout_seconds=2.0))
    assert (done.labelled, done.errors) == (5, {"timeout": 1})


@pytest.mark.parametrize(
    "written",
    [
        "Kitchen > Kettles",
        " kettles ",
        "KITCHEN > KETTLES",
        "Kitchen>Kettles\n",
        "kitchen  >  Kettles",
        "`Kettles`",
    ],
)
def test_case_and_spaces_are_forgiven_and_nothing_else(sqlite_store: Store, written: str) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(lambda *_: says(written)) as teacher:
        done = _label(sqlite_store, how(teacher.base_url))
    if "`" in written:
        assert (done.invalid, done.errors) == (5, {"unknown_label": 5})
    else:
        assert set(effective_labels(sqlite_store)["label"]) == {KETTLES}


@pytest.mark.parametrize(
    "fault",
    [
        Said("I'm sorry, but I can't help with that.", finish="content_filter"),
        fails(400, "This model's maximum context length is 8192 tokens", "context_length_exceeded"),
        fails(400, "x" * 5_000_000),
        fails(413, "<html>Request Entity Too Large</html>"),
        says("Toasters"),
        says("Kettles, Knives"),
        Said('{"label": "Kettles", "label": "Knives"}'),
    ],
)
def test_one_such_item_never_hurts_its_neighbours(sqlite_store: Store, fault: Said) -> None:
    """It is dead-lettered with its reason, in bounds; the others are labelled in the same run."""
    keys = put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(lambda item, *_: fault if item == GUILTY else says(KETTLES)) as teacher:
        done = _label(sqlite_store, how(teacher.base_url))
        again = _label(sqlite_store, how(teacher.base_url))
        assert teacher.requests == 5
    assert (done.labelled, done.invalid, done.failed, again.items) == (4, 1, 0, 0)
    answers = schema.answers.c
    kept = sqlite_store.read(
        select(answers.key, answers.error_class, answers.reason, answers.attempts)
    ).filter(key=keys[3])
    assert kept["error_class"].null_count() == 0
    assert kept["attempts"].to_list() == [1]
    assert len(kept["reason"].item() or "") <= MAX_DETAIL
