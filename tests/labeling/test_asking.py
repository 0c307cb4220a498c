"""The labelling job against a real HTTP server: what is asked, what is paid, what becomes a label."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import polars as pl
import pytest
from sqlalchemy import select, text

from tasks.errors import ConfigError, FatalTeacherError, StoreError
from tasks.labeling.labelling import label_items
from tasks.labeling.ledger import current_answers, unanswered
from tasks.labeling.once import ask_once
from tasks.labeling.sessions import Session
from tasks.labeling.teacher import OpenAITeacher
from tasks.records import Labelled, image_key, text_key
from tasks.store import Store, schema
from tasks.store.labels import append_labels, disputed_keys, effective_labels, raw_labels
from tests.labeling.scripted import (
    COST_USD,
    HOSES,
    KETTLES,
    KEY,
    KNIVES,
    NO_KEYS,
    FakeTime,
    Said,
    Script,
    ScriptedTeacher,
    fails,
    how,
    item_in,
    put_texts,
    says,
)

TEXTS = [f"product {i}" for i in range(30)]


def _label(store: Store, asked: object, **more: object) -> Labelled:
    settings = {"passes": 2, "budget_usd": None, "gold_keys": NO_KEYS, "run_id": 1} | more
    return label_items(store, asked, **settings)  # type: ignore[arg-type]


def _calls(store: Store) -> pl.DataFrame:
    columns = schema.calls.c
    return store.read(
        select(
            columns.status,
            columns.error_class,
            columns.reply,
            columns.attempts,
            columns.cost_usd,
            columns.stage,
        ).order_by(columns.id)
    )


def _all_answers(store: Store) -> pl.DataFrame:
    columns = schema.answers.c
    return store.read(
        select(columns.key, columns["pass"], columns.label, columns.error_class, columns.attempts)
    )


def test_two_passes_become_consensus_labels_and_a_rerun_asks_nothing(store: Store) -> None:
    """On both databases; where the passes differ the item is disagreed and goes to review."""
    keys = put_texts(store, TEXTS)

    def script(item: str, number: int, asked: int) -> Said:
        return says(KNIVES if number == 2 and item == TEXTS[0] else "kettles")

    seen: list[tuple[int, int, float]] = []
    with ScriptedTeacher(script) as teacher:
        asked = how(teacher.base_url)
        done = _label(store, asked, progress=lambda *row: seen.append(row))
        again = _label(store, asked)
        assert teacher.requests == 60
        assert sorted(item_in(body) for body in teacher.bodies) == sorted(TEXTS * 2)
        assert {body["seed"] for body in teacher.bodies} == {1, 2}
        orders = {body["seed"]: body["messages"][0]["content"] for body in teacher.bodies}
        assert orders[1] != orders[2]
    assert (done.items, done.labelled, done.disagreed, done.invalid, done.failed) == (30, 29, 1, 0, 0)
    assert (done.calls, done.unlabelled_left, done.stopped) == (60, 0, None)
    assert done.cost_usd == pytest.approx(60 * COST_USD)
    assert done.tokens == {"prompt": 60_000, "cached": 24_000, "completion": 1200}
    assert done.agreement == pytest.approx(29 / 30)
    assert seen[-1][:2] == (60, 60)
    assert [row[0] for row in seen] == list(range(1, 61))
    assert (again.items, again.calls, again.cost_usd, again.unlabelled_left) == (0, 0, 0.0, 0)
    labels = effective_labels(store)
    assert set(labels["key"]) == set(keys[1:])
    assert set(labels["label"]) == {KETTLES}
    assert set(labels["source"]) == {"consensus"}
    assert disputed_keys(store)["key"].to_list() == [keys[0]]
    assert raw_labels(store).height == 30
    calls = _calls(store)
    assert calls["status"].to_list() == ["ok"] * 60
    assert calls["cost_usd"].sum() == pytest.approx(done.cost_usd)
    assert store.scalar(text("SELECT count(*) FROM call_answers")) == 60  # type: ignore[arg-type]
    assert store.scalar(select(schema.calls.c.echoed_model)) == "echoed-1"


def test_each_answer_points_to_its_own_call(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(lambda item, number, asked: says(KETTLES, reason=f"{item}/{number}")) as teacher:
        _label(sqlite_store, how(teacher.base_url))
    calls, answers, links = schema.calls.c, schema.answers.c, schema.call_answers.c
    joined = sqlite_store.read(
        select(calls.reply, answers.reason).where(links.call_id == calls.id, links.answer_id == answers.id)
    )
    assert joined.height == 60
    for reply, reason in joined.iter_rows():
        assert json.loads(reply)["reason"] == reason


def test_appended_items_cost_only_themselves(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        _label(sqlite_store, how(teacher.base_url))
        put_texts(sqlite_store, ["a new one", *TEXTS])
        done = _label(sqlite_store, how(teacher.base_url))
        assert teacher.requests == 62
    assert (done.items, done.calls) == (1, 2)


def test_a_changed_prompt_asks_again_and_old_answers_stay(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        old, new = how(teacher.base_url), how(teacher.base_url, instructions="Look twice.")
        _label(sqlite_store, old)
        assert _label(sqlite_store, new).calls == 60
        assert _label(sqlite_store, how(teacher.base_url, model="another")).calls == 60
        assert _label(sqlite_store, old).calls == 0
    assert current_answers(sqlite_store, old.version).height == 60
    assert _all_answers(sqlite_store).height == 180
    assert raw_labels(sqlite_store).height == 30


def test_decided_items_and_gold_are_not_asked_about(sqlite_store: Store) -> None:
    keys = put_texts(sqlite_store, TEXTS[:6])
    rows = [(keys[0], KNIVES, "human"), (keys[1], KNIVES, "adjudicated"), (keys[2], KNIVES, "imported")]
    append_labels(sqlite_store, rows, 1)
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        done = _label(sqlite_store, how(teacher.base_url), gold_keys=pl.DataFrame({"key": keys[3:4]}))
        assert {item_in(body) for body in teacher.bodies} == set(TEXTS[4:6])
    assert (done.items, done.unlabelled_left) == (2, 0)


def test_a_limit_bounds_the_items_and_what_is_left_is_not_held_against_it(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        done = _label(sqlite_store, how(teacher.base_url), limit=7)
        assert teacher.requests == 14
        assert _label(sqlite_store, how(teacher.base_url)).items == 23
    assert (done.items, done.labelled, done.unlabelled_left) == (7, 7, 0)


def _first_time(fault: Callable[[], Said]) -> Script:
    return lambda item, number, asked: fault() if asked == 1 and item == TEXTS[3] else says(KETTLES)


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (lambda: fails(500), "http_500"),
        (lambda: fails(503, **{"Retry-After": "3"}), "http_503"),
        (lambda: fails(408), "http_408"),
        (lambda: fails(429), "rate_limited"),
        (lambda: Said(""), "empty"),
        (lambda: Said(None), "empty"),
        (lambda: Said("<html>"), "html"),
        (lambda: Said("no JSON"), "not_json"),
        (lambda: Said('{"label": "Kit', finish="length"), "truncated"),
        (lambda: Said('{"label": "Kit'), "truncated"),
        (lambda: Said('{"confidence": 1}'), "no_label"),
        (lambda: Said(body="<html><h1>Bad gateway</h1>"), "html"),
        (lambda: Said(body='{"choices": [{"mess'), "not_a_completion"),
        (lambda: Said(body="[]"), "not_a_completion"),
        (lambda: Said(body=json.dumps({"error": {"code": 502, "message": "upstream"}})), "http_502"),
    ],
)
def test_a_fault_that_passes_is_tried_again(
    sqlite_store: Store, fault: Callable[[], Said], error_class: str
) -> None:
    put_texts(sqlite_store, TEXTS[:5])
    with ScriptedTeacher(_first_time(fault)) as teacher:
        done = _label(sqlite_store, how(teacher.base_url))
        assert teacher.requests == 12
    assert (done.labelled, done.invalid, done.failed, done.unlabelled_left) == (5, 0, 0, 0)
    assert done.errors == {error_class: 2}
    assert set(_all_answers(sqlite_store).filter(pl.col("key") == text_key(TEXTS[3]))["attempts"]) == {2}


@pytest.mark.parametrize(
    ("fault", "error_class", "asked_times"),
    [
        (lambda: Said(""), "empty", 3),
        (lambda: Said("<html>"), "html", 3),
        (lambda: Said("{", finish="length"), "truncated", 3),
        (lambda: says("Toasters"), "unknown_label", 1),
        (lambda: says("Kettles or Knives"), "two_labels", 1),
        (lambda: Said("I cannot", finish="content_filter"), "teacher_refused", 1),
        (lambda: fails(400, "too long", "context_length_exceeded"), "http_400", 1),
        (lambda: fails(404, "no such text"), "http_404", 1),
        (lambda: fails(413), "http_413", 1),
        (lambda: fails(422), "http_422", 1),
    ],
)
def test_a_fault_that_stays_is_dead_lettered_and_not_asked_again(
    sqlite_store: Store, fault: Callable[[], Said], error_class: str, asked_times: int
) -> None:
    """What was paid for is a call with its raw reply, and no label comes of it."""
    keys = put_texts(sqlite_store, TEXTS[:5])
    with ScriptedTeacher(
        lambda item, number, asked: fault() if item == TEXTS[3] else says(KETTLES)
    ) as teacher:
        done = _label(sqlite_store, how(teacher.base_url))
        assert teacher.requests == 8 + 2 * asked_times
        again = _label(sqlite_store, how(teacher.base_url))
        assert teacher.requests == 8 + 2 * asked_times
    assert (done.items, done.labelled, done.invalid, done.unlabelled_left) == (5, 4, 1, 1)
    assert (again.items, again.unlabelled_left) == (0, 1)
    dead = _all_answers(sqlite_store).filter(pl.col("key") == keys[3])
    assert dead.select("label", "error_class", "attempts").unique().rows() == [
        (None, error_class, asked_times)
    ]
    assert keys[3] not in set(raw_labels(sqlite_store)["key"])
    calls = _calls(sqlite_store).filter(pl.col("status") != "ok")
    assert set(calls["error_class"]) == {error_class}
    if fault().status == 200:
        assert calls.height == 2 * asked_times
        assert done.calls == teacher.requests
        assert calls["cost_usd"].to_list() == pytest.approx([COST_USD] * calls.height)
        assert None not in calls["reply"].to_list()


def test_what_a_gateway_says_is_not_held_against_the_item(sqlite_store: Store) -> None:
    """A page instead of a completion fails the request for this run only; the next run asks again."""
    put_texts(sqlite_store, TEXTS[:5])
    up = threading.Event()

    def script(item: str, number: int, asked: int) -> Said:
        return says(KETTLES) if item != TEXTS[3] or up.is_set() else Said(body="<html>blocked</html>")

    with ScriptedTeacher(script) as teacher:
        done = _label(sqlite_store, how(teacher.base_url))
        up.set()
        again = _label(sqlite_store, how(teacher.base_url))
    assert (done.items, done.labelled, done.failed, done.unlabelled_left) == (5, 4, 1, 1)
    assert (again.items, again.labelled, again.calls) == (1, 1, 2)


def test_retry_after_holds_everybody(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    time = FakeTime()
    times: list[float] = []

    def script(item: str, number: int, asked: int) -> Said:
        times.append(time.now)
        return fails(429, **{"Retry-After": "7"}) if len(times) == 10 else says(KETTLES)

    with ScriptedTeacher(script) as teacher:
        done = _label(sqlite_store, how(teacher.base_url, time=time, concurrency=1), passes=1)
    assert done.labelled == 30
    assert times[:10] == [0.0] * 10
    assert min(times[10:]) >= 7.0


def test_a_request_that_backs_off_holds_no_slot(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    order: list[str] = []

    def script(item: str, number: int, asked: int) -> Said:
        order.append(item)
        return fails(500) if len(order) == 1 else says(KETTLES)

    time = FakeTime()
    with ScriptedTeacher(script) as teacher:
        done = _label(sqlite_store, how(teacher.base_url, time=time, concurrency=1), passes=1)
    assert done.labelled == 30
    assert order[-1] == order[0]
    assert order.count(order[0]) == 2
    assert len(time.slept) == 1


def test_pauses_double_and_are_jittered(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS[:1])
    time = FakeTime()
    with ScriptedTeacher(lambda *_: fails(500)) as teacher:
        _label(sqlite_store, how(teacher.base_url, time=time, max_attempts=5), passes=1)
        assert teacher.requests == 5
    assert len(time.slept) == 4
    for nominal, slept in zip((0.5, 1, 2, 4), time.slept, strict=True):
        assert 0.5 * nominal <= slept <= 1.5 * nominal
    assert len({slept / nominal for nominal, slept in zip((0.5, 1, 2, 4), time.slept, strict=True)}) == 4


def test_a_wrong_key_stops_at_once_and_the_key_is_told_to_nobody(
    sqlite_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    put_texts(sqlite_store, TEXTS)
    caplog.set_level(logging.DEBUG)
    refusal = fails(401, f"Incorrect API key provided: {KEY}. See https://example.org", "invalid_api_key")
    with ScriptedTeacher(lambda *_: refusal) as teacher, pytest.raises(FatalTeacherError) as caught:
        _label(sqlite_store, how(teacher.base_url))
    assert teacher.requests == 1
    assert caught.value.error_class == "unauthorized"
    assert "Incorrect API key provided: ***" in str(caught.value)
    assert KEY not in str(caught.value) + caplog.text
    assert KEY not in str(_calls(sqlite_store).to_dicts())
    assert KEY not in json.dumps(teacher.bodies)


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (fails(401), "unauthorized"),
        (fails(403), "forbidden"),
        (fails(402, "insufficient credits"), "no_money"),
        (fails(429, "You exceeded your quota", "insufficient_quota"), "no_money"),
        (fails(404, "The model x does not exist", "model_not_found"), "model_not_found"),
    ],
)
def test_a_fatal_error_in_the_middle_keeps_what_was_paid_for(
    sqlite_store: Store, fault: Said, error_class: str
) -> None:
    put_texts(sqlite_store, TEXTS)
    served: list[str] = []

    def script(item: str, number: int, asked: int) -> Said:
        served.append(item)
        return says(KETTLES) if len(served) <= 20 else fault

    with ScriptedTeacher(script) as teacher:
        with pytest.raises(FatalTeacherError) as caught:
            _label(sqlite_store, how(teacher.base_url))
        assert teacher.requests <= 20 + 8
    assert caught.value.error_class == error_class
    assert _calls(sqlite_store).filter(pl.col("status") == "ok").height == 20
    assert raw_labels(sqlite_store).height >= 10


def test_the_budget_is_never_passed_and_nothing_paid_for_is_lost(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        asked = how(teacher.base_url)
        done = _label(sqlite_store, asked, budget_usd=20 * COST_USD)
        assert 10 <= teacher.requests <= 20
        assert done.calls == teacher.requests
        assert done.stopped == "budget"
        assert 0 < done.cost_usd <= 20 * COST_USD
        assert done.unlabelled_left == 30 - done.labelled
        rest = _label(sqlite_store, asked)
        assert teacher.requests == 60
    assert (rest.unlabelled_left, rest.stopped) == (0, None)
    assert effective_labels(sqlite_store).height == 30


def test_without_money_nothing_is_asked(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        done = _label(sqlite_store, how(teacher.base_url), budget_usd=0.0)
        assert teacher.requests == 0
    assert (done.items, done.stopped, done.unlabelled_left) == (0, "budget", 30)


def test_a_teacher_that_is_down_stops_the_run_early(sqlite_store: Store) -> None:
    put_texts(sqlite_store, [f"item {i}" for i in range(200)])
    with ScriptedTeacher(lambda *_: fails(500)) as teacher:
        done = _label(sqlite_store, how(teacher.base_url))
        assert teacher.requests <= (16 + 8) * 4
    assert done.stopped == "teacher_down"
    assert (done.labelled, done.unlabelled_left) == (0, 200)
    assert set(_calls(sqlite_store)["status"]) == {"failed"}
    assert _all_answers(sqlite_store).height == 0


def test_connections_refused_and_timeouts_are_a_teacher_that_is_down(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS[:2])
    refused = _label(sqlite_store, how("http://127.0.0.1:9/v1"))
    assert (refused.stopped, set(refused.errors)) == ("teacher_down", {"connection"})
    with ScriptedTeacher(lambda *_: Said(never=True)) as teacher:
        asked = how(teacher.base_url, timeout_seconds=0.05, max_attempts=2)
        late = _label(sqlite_store, asked)
    assert (late.stopped, set(late.errors)) == ("teacher_down", {"timeout"})


@pytest.mark.parametrize("fault", [fails(404, "no route"), says("Toasters")])
def test_twenty_failures_alike_at_the_start_are_a_mistake_of_the_project(
    sqlite_store: Store, fault: Said
) -> None:
    put_texts(sqlite_store, [f"item {i}" for i in range(200)])
    with ScriptedTeacher(lambda *_: fault) as teacher:
        with pytest.raises(FatalTeacherError, match="the first 20 requests"):
            _label(sqlite_store, how(teacher.base_url))
        assert teacher.requests < 30
    # A refusal cost nothing and may come from a wrong address: those items are asked again after the repair.
    assert (_all_answers(sqlite_store).height == 0) == (fault.status != 200)


@pytest.mark.parametrize(
    ("fault", "todo"),
    [
        (says("Toasters"), "no other way to say that none fits"),
        (Said("They are kettles, I think."), "teacher.structured must be true"),
        (fails(404, "no route"), "check teacher.model, teacher.base_url"),
    ],
)
def test_the_first_failures_say_what_to_do(sqlite_store: Store, fault: Said, todo: str) -> None:
    """The failure's own remedy where there is one, else where to look."""
    put_texts(sqlite_store, [f"item {i}" for i in range(80)])
    with ScriptedTeacher(lambda *_: fault) as teacher, pytest.raises(FatalTeacherError) as stopped:
        _label(sqlite_store, how(teacher.base_url))
    assert todo in str(stopped.value)


def test_one_success_shows_that_refusals_are_the_items_own(sqlite_store: Store) -> None:
    put_texts(sqlite_store, [f"item {i}" for i in range(60)])
    with ScriptedTeacher(
        lambda item, *_: says(KETTLES) if item.endswith("7") else fails(400, "odd")
    ) as teacher:
        done = _label(sqlite_store, how(teacher.base_url, concurrency=1), passes=1)
        assert teacher.requests == 60
    assert (done.labelled, done.invalid, done.unlabelled_left) == (6, 54, 54)


def test_a_label_outside_the_taxonomy_never_becomes_a_label(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    outside = ["Toasters", "Kitchen", "Garden > Kettles", "Kettle", "IGNORE ALL", "kettles; hoses"]
    with ScriptedTeacher(
        lambda item, *_: says(outside[int(item.split()[1]) % 6] if int(item.split()[1]) % 2 else HOSES)
    ) as teacher:
        done = _label(sqlite_store, how(teacher.base_url))
        assert (done.labelled, done.invalid) == (15, 15)
    assert set(raw_labels(sqlite_store)["label"]) - {None} == {HOSES}


def test_text_that_no_database_takes_is_kept_all_the_same(store: Store) -> None:
    put_texts(store, TEXTS[:1])
    reply = '{"label": "Kettles", "reason": "nul \\u0000 and half a pair \\ud800"}'
    with ScriptedTeacher(lambda *_: Said(reply, model="m\x00")) as teacher:
        assert _label(store, how(teacher.base_url)).labelled == 1


def test_images_are_asked_about_and_one_that_is_gone_is_dead_lettered(
    sqlite_store: Store, tmp_path: object
) -> None:
    import io

    from PIL import Image

    from tasks.store.items import append_items

    written = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(written, "PNG")
    image = written.getvalue()
    gone = b"0" * 16
    frame = pl.DataFrame(
        {
            "key": [image_key(image), gone],
            "source_id": ["1", "2"],
            "text": [None, f"{tmp_path}/gone.png"],
            "image": [image, None],
        },
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary},
    )
    append_items(sqlite_store, frame, "source", 1)
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        done = _label(sqlite_store, how(teacher.base_url, modality="image"))
        part = teacher.bodies[0]["messages"][1]["content"][1]
        assert part["image_url"]["url"].startswith("data:image/png;base64,")
    assert (done.labelled, done.invalid, done.errors) == (1, 1, {"unreadable_image": 2})


def test_the_router_asks_once_and_label_adds_the_other_pass(sqlite_store: Store) -> None:
    keys = put_texts(sqlite_store, TEXTS)
    contents = pl.DataFrame(
        {"key": [*keys[:4], keys[0]], "text": [*TEXTS[:4], TEXTS[0]], "image": None},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )

    def script(item: str, number: int, asked: int) -> Said:
        return says("Toasters") if item == TEXTS[2] else says(KETTLES)

    with ScriptedTeacher(script) as teacher:
        asked = how(teacher.base_url, concurrency=2)
        said = ask_once(sqlite_store, asked, contents, "route", 2, 1)
        again = ask_once(sqlite_store, asked, contents, "audit", 2, 1)
        assert teacher.requests == 4
        assert said["key"].to_list() == keys[:4]
        assert said["label"].to_list() == [KETTLES, KETTLES, None, KETTLES]
        assert said["error_class"].to_list() == [None, None, "unknown_label", None]
        assert said["cost_usd"].to_list() == pytest.approx([COST_USD] * 4)
        assert again.drop("cost_usd").equals(said.drop("cost_usd"))
        assert again["cost_usd"].to_list() == [0.0] * 4
        assert set(effective_labels(sqlite_store)["source"]) == {"single"}
        assert (
            unanswered(sqlite_store, contents.select("key").unique(), 2, asked.version)["pass"].to_list()
            == [2] * 4
        )
        done = _label(sqlite_store, asked, limit=4)
        # Escalations that are owed come first, and cost only the pass that is missing.
        assert {item_in(body) for body in teacher.bodies[4:]} == set(TEXTS[:4])
    assert (done.items, done.calls, done.labelled, done.invalid) == (4, 4, 3, 1)
    assert set(_calls(sqlite_store)["stage"]) == {"route", "label"}
    assert set(effective_labels(sqlite_store)["source"]) == {"consensus"}


def test_a_session_keeps_its_connections_from_shard_to_shard(sqlite_store: Store) -> None:
    """And its first request need not go ahead of the others a second time; without one each shard connects anew."""
    contents = pl.DataFrame(
        {"key": [text_key(t) for t in TEXTS], "text": TEXTS, "image": None},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        asked = how(teacher.base_url, concurrency=1)
        with Session(asked.connect) as session:
            for shard in contents.iter_slices(6):
                said = ask_once(sqlite_store, asked, shard, "route", 2, 1, session=session)
                assert said["label"].to_list() == [KETTLES] * 6
        assert (teacher.requests, len(teacher.peers)) == (30, 1)
        other = how(teacher.base_url, concurrency=1, instructions="Look twice.")
        for shard in contents.iter_slices(6):
            ask_once(sqlite_store, other, shard, "route", 2, 1)
        assert (teacher.requests, len(teacher.peers)) == (60, 1 + 5)


def test_a_session_without_a_key_says_so_and_is_closed_all_the_same(sqlite_store: Store) -> None:
    def connect() -> OpenAITeacher:
        raise ConfigError("environment", "NO_SUCH_KEY is not set", "Set it.")

    contents = pl.DataFrame({"key": [text_key("x")], "text": ["x"], "image": [None]})
    asked = replace(how("http://127.0.0.1:9/v1"), connect=connect)
    with Session(connect) as session, pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        ask_once(sqlite_store, asked, contents, "route", 2, 1, session=session)


def test_what_the_router_could_not_ask_says_why(sqlite_store: Store) -> None:
    contents = pl.DataFrame(
        {"key": [text_key(t) for t in TEXTS], "text": TEXTS, "image": None},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )
    with ScriptedTeacher(lambda *_: fails(401)) as teacher:
        said = ask_once(sqlite_store, how(teacher.base_url), contents, "route", 2, 1)
    assert set(said["error_class"]) == {"unauthorized"}
    said = ask_once(sqlite_store, how("http://127.0.0.1:9/v1"), contents, "route", 2, 1)
    assert set(said["error_class"]) == {"connection", "teacher_down"}
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        said = ask_once(sqlite_store, how(teacher.base_url), contents, "route", 2, 1, 0.0)
        assert set(said["error_class"]) == {"budget"}
        quiet = ask_once(sqlite_store, how(teacher.base_url), contents, "gold", 2, 1, write_labels=False)
    assert quiet["label"].to_list() == [KETTLES] * 30
    assert raw_labels(sqlite_store).height == 0


def test_it_works_where_a_loop_is_running_already(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS[:3])
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        asked = how(teacher.base_url)

        async def notebook() -> Labelled:
            return _label(sqlite_store, asked)

        assert asyncio.run(notebook()).labelled == 3


def test_a_database_that_cannot_be_written_ends_the_run_with_its_name(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    asked_times: list[str] = []

    def script(item: str, number: int, asked: int) -> Said:
        asked_times.append(item)
        return says(KETTLES)

    with sqlite_store.begin() as connection:
        connection.execute(
            text("CREATE TRIGGER full BEFORE INSERT ON calls BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
        )
    with ScriptedTeacher(script) as teacher, pytest.raises(StoreError, match="disk is full"):
        _label(sqlite_store, how(teacher.base_url))
    assert len(asked_times) == 1


def test_passes_of_one_item_are_asked_together(sqlite_store: Store) -> None:
    """A run that stops early leaves whole items, not halves of all."""
    put_texts(sqlite_store, TEXTS[:8])
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        _label(sqlite_store, how(teacher.base_url, concurrency=1))
        asked = [item_in(body) for body in teacher.bodies]
    assert all(first == second for first, second in list(pairwise(asked))[::2])
