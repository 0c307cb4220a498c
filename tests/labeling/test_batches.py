"""Labelling through the Batch API of the simulated teacher: what is sent, paid, fetched, and due again."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from PIL import Image
from sqlalchemy import func, select

from deployments.teacher_sim import TeacherServer, recorded_answers
from tasks.errors import FatalTeacherError
from tasks.labeling.asking import Asking, OtherPass
from tasks.labeling.batch_book import left_of_run
from tasks.labeling.batch_collection import Fetched
from tasks.labeling.batch_labelling import BatchSender, Mode, label_in_batches
from tasks.labeling.batch_submission import Terms
from tasks.labeling.batches import fetch
from tasks.labeling.budget import Price
from tasks.labeling.labelling import label_items
from tasks.labeling.ledger import current_answers
from tasks.labeling.once import ask_once
from tasks.labeling.steps import items_still_wanted, label_with_teacher, take_in_items
from tasks.labeling.teacher import OpenAITeacher
from tasks.project import load_project
from tasks.records import Labelled, image_key, text_key
from tasks.store import Store, open_store, schema
from tasks.store.items import append_items
from tasks.store.labels import effective_labels
from tests.deployments.commands import flywheel
from tests.labeling.meddling import Meddler, Passing
from tests.labeling.scripted import (
    HOSES,
    KETTLES,
    KEY,
    NO_KEYS,
    FakeTime,
    ScriptedTeacher,
    how,
    put_texts,
    says,
)

TEXTS = [f"product number {i:03d}" for i in range(40)]
ANSWERS = {text: [KETTLES, HOSES if i % 5 == 0 else KETTLES] for i, text in enumerate(TEXTS)}
POLL_SECONDS = 0.005  # the simulated teacher has a clock of its own; real time must pass between two looks


def label(
    store: Store,
    asked: Asking,
    mode: Mode,
    *,
    passes: int = 2,
    budget_usd: float | None = None,
    run_id: int = 1,
    limit: int | None = None,
    terms: Terms | None = None,
) -> Labelled:
    """One labelling run as the step makes it."""

    def one_round(send: BatchSender | None, fetched: Fetched, only: pl.DataFrame | None) -> Labelled:
        calls, batches = schema.calls.c, schema.batches.c
        spent = store.scalar(select(func.sum(calls.cost_usd)).where(calls.run_id == run_id)) or 0.0
        spent += (
            store.scalar(select(func.sum(batches.reserved_usd)).where(batches.closed_at.is_(None))) or 0.0
        )
        left = None if budget_usd is None else max(0.0, budget_usd - spent)
        most = limit if only is None else None
        return label_items(
            store, asked, passes, left, NO_KEYS, run_id, most, send=send, fetched=fetched, only=only
        )

    return label_in_batches(
        store, asked, mode, one_round, limit is not None, terms, POLL_SECONDS, sleep=asyncio.sleep
    )


def rows(store: Store, *names: str) -> pl.DataFrame:
    columns = schema.calls.c
    return store.read(select(*(columns[name] for name in names)).order_by(columns.id))


def count(store: Store, table: str) -> int:
    return int(store.scalar(select(func.count()).select_from(schema.metadata.tables[table])))


def ended(server: TeacherServer) -> None:
    """Wait until the server has worked off what it has; its own clock decides when."""
    while any(
        batch["status"] in ("validating", "in_progress", "finalizing", "cancelling")
        for batch in httpx.get(f"{server.base_url}/batches?limit=100", headers=BEARER).json()["data"]
    ):
        continue


BEARER = {"Authorization": f"Bearer {KEY}"}


def test_a_batch_gives_the_labels_of_an_online_run_at_half_its_price(store: Store) -> None:
    """Same answers and same keys in the ledger, each call with its batch and line; a rerun sends nothing."""
    put_texts(store, TEXTS)
    with TeacherServer(ANSWERS, api_key=KEY) as server:
        done = label(store, how(server.base_url), "wait")
        again = label(store, how(server.base_url), "wait")
        online = label(store, how(server.base_url), "none")
        stats = server.stats()
    assert (done.items, done.labelled, done.disagreed, done.failed, done.stopped) == (40, 32, 8, 0, None)
    assert (done.calls, done.unlabelled_left, done.waiting) == (80, 0, 0)
    assert done.batches == {
        "submitted": 1,
        "fetched": 1,
        "refused": 0,
        "open": 0,
        "ignored_lines": 0,
        "paid_twice": 0,
        "problems": [],
    }
    assert (again.calls, again.batches, online.calls) == (0, None, 0)
    assert (stats["paid"], stats["batch_paid"], stats["requests"], stats["batches"]) == (80, 80, 0, 1)
    tokens = Price(1.0, 10.0, 0.1).cost_usd(
        *(stats[f"{kind}_tokens"] for kind in ("prompt", "cached", "completion"))
    )
    assert done.cost_usd == pytest.approx(tokens / 2)
    calls = rows(store, "batch_id", "batch_line", "status", "run_id", "cost_usd")
    assert sorted(calls["batch_line"].to_list()) == list(range(80))
    assert calls.select("batch_id", "status", "run_id").unique().rows() == [(1, "ok", 1)]
    assert calls["cost_usd"].sum() == pytest.approx(done.cost_usd)
    assert count(store, "call_answers") == 80
    batch = store.read(select(schema.batches)).row(0, named=True)
    assert batch["status"] == "completed"
    assert batch["closed_at"] is not None
    assert batch["reserved_usd"] > done.cost_usd


def test_a_line_has_the_very_body_that_the_online_request_would_have(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS[:5])
    with TeacherServer(ANSWERS) as server, ScriptedTeacher(lambda *_: says(KETTLES)) as online:
        label(sqlite_store, how(server.base_url), "submit")
        label(sqlite_store, how(online.base_url, model="another"), "none")
        files = httpx.get(f"{server.base_url}/files?purpose=batch").json()["data"]
        content = httpx.get(f"{server.base_url}/files/{files[-1]['id']}/content").content
    lines = [json.loads(line) for line in content.splitlines()]
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    assert len({line["custom_id"] for line in lines}) == 10

    def bodies(found: list[dict[str, object]]) -> list[str]:
        return sorted(json.dumps(body | {"model": ""}, sort_keys=True) for body in found)

    assert bodies([line["body"] for line in lines]) == bodies(online.bodies)


def test_only_what_failed_or_expired_is_sent_again(sqlite_store: Store) -> None:
    """Round after round until everything is answered; nothing that was answered is paid twice."""
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS, batch_error_rate=0.2, batch_expired_rate=0.1, seed=5) as server:
        done = label(sqlite_store, how(server.base_url), "wait")
        stats = server.stats()
    assert (done.items, done.labelled, done.disagreed, done.failed) == (40, 32, 8, 0)
    assert (stats["paid"], stats["paid_again"]) == (80, 0)
    batches = sqlite_store.read(select(schema.batches.c.requests, schema.batches.c.status))
    failures = sum(done.errors[name] for name in ("http_500", "batch_expired"))
    assert failures > 10
    assert batches["requests"].sum() == 80 + failures
    assert set(batches["status"]) <= {"expired", "completed"}
    assert rows(sqlite_store, "status")["status"].value_counts(name="n").sort("n").rows() == [
        ("failed", failures),
        ("ok", 80),
    ]


def test_online_and_batch_runs_share_the_work(store: Store) -> None:
    """What waits in a batch is not asked online; what was asked online is not sent; each is paid once."""
    keys = put_texts(store, TEXTS[:20])
    with TeacherServer(ANSWERS, batch_seconds=1.0) as server:
        asked = how(server.base_url)
        first = label(store, asked, "submit", limit=12)
        put_texts(store, TEXTS[20:])
        second = label(store, asked, "none", run_id=2)
        third = label(store, asked, "wait", run_id=3)
        stats = server.stats()
    assert (first.items, first.waiting, first.calls, first.unlabelled_left) == (0, 24, 0, 12)
    assert (second.items, second.calls, second.waiting, second.unlabelled_left) == (28, 56, 24, 12)
    assert (third.items, third.calls, third.waiting, third.unlabelled_left) == (12, 24, 0, 0)
    assert (stats["paid"], stats["batch_paid"], stats["paid_again"], stats["requests"]) == (80, 24, 0, 56)
    assert len(effective_labels(store)) == 32
    assert set(effective_labels(store)["key"]) >= {key for i, key in enumerate(keys) if i % 5}
    # The money is the run's that sent it, whoever fetched it.
    assert dict(rows(store, "run_id")["run_id"].value_counts().rows()) == {1: 24, 2: 56}


def test_an_online_run_fetches_what_has_ended(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS, api_key=KEY) as server:
        label(sqlite_store, how(server.base_url), "submit", limit=30)
        ended(server)
        done = label(sqlite_store, how(server.base_url), "none", run_id=2)
        stats = server.stats()
    assert (done.items, done.calls, done.waiting, done.unlabelled_left) == (40, 80, 0, 0)
    assert done.batches is not None
    assert done.batches["fetched"] == 1
    assert (stats["requests"], stats["batch_paid"], stats["paid_again"]) == (20, 60, 0)


@pytest.mark.parametrize("terms", [Terms(most_requests=30), Terms(most_bytes=40_000)])
def test_files_keep_within_the_limits_of_the_provider(sqlite_store: Store, terms: Terms) -> None:
    put_texts(sqlite_store, TEXTS)
    most = {"batch_most_requests": terms.most_requests, "batch_most_bytes": terms.most_bytes}
    with TeacherServer(ANSWERS, **most) as server:
        done = label(sqlite_store, how(server.base_url), "wait", terms=terms)
    assert (done.labelled, done.disagreed, done.errors) == (32, 8, {})
    sizes = sqlite_store.read(select(schema.batches.c.requests))["requests"].to_list()
    assert sum(sizes) == 80
    assert len(sizes) >= 3


def test_only_what_the_budget_holds_is_sent_and_settled_money_is_used_again(sqlite_store: Store) -> None:
    """The reservation is the most that lines can cost; the total never passes the limit."""
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS) as server:
        whole = label(sqlite_store, how(server.base_url, model="priced"), "wait").cost_usd
    reserved = sqlite_store.scalar(select(schema.batches.c.reserved_usd))
    assert reserved > 3 * whole
    with TeacherServer(ANSWERS, batch_seconds=60) as server:
        asked = how(server.base_url)
        few = label(sqlite_store, asked, "submit", budget_usd=reserved / 4, run_id=2)
        assert few.stopped == "budget"
        assert 15 <= few.waiting <= 20
        again = label(sqlite_store, asked, "submit", budget_usd=reserved / 4, run_id=2)
        assert again.waiting == few.waiting
        label(sqlite_store, asked, "cancel", run_id=2)
    with TeacherServer(ANSWERS) as server:
        done = label(sqlite_store, how(server.base_url), "wait", budget_usd=reserved / 3, run_id=3)
    assert (done.stopped, done.labelled, done.disagreed) == (None, 32, 8)
    assert done.cost_usd <= reserved / 3
    assert done.batches is not None
    assert done.batches["submitted"] > 1


def test_money_that_reaches_no_further_ends_the_rounds(sqlite_store: Store) -> None:
    """The limit is never passed, and nobody waits another day for a handful of requests."""
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS) as server:
        label(sqlite_store, how(server.base_url, model="priced"), "wait")
        most = sqlite_store.scalar(select(schema.batches.c.reserved_usd)) / 7
        done = label(sqlite_store, how(server.base_url), "wait", budget_usd=most, run_id=2)
    sizes = sqlite_store.read(select(schema.batches.c.requests))["requests"].to_list()
    assert min(sizes) >= 10
    assert len(sizes) > 1
    spent = rows(sqlite_store, "run_id", "cost_usd").filter(pl.col("run_id") == 2)["cost_usd"].sum()
    assert (done.stopped, done.waiting) == ("budget", 0)
    assert spent == pytest.approx(done.cost_usd)
    assert 0 < spent <= most
    assert done.unlabelled_left > 0


def test_a_limit_holds_for_all_rounds_of_a_run(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS, batch_error_rate=0.3, seed=1) as server:
        done = label(sqlite_store, how(server.base_url), "wait", limit=10)
        stats = server.stats()
    assert (done.items, done.unlabelled_left, done.calls) == (10, 0, 20)
    assert stats["batches"] > 1
    assert (stats["items"], stats["paid"]) == (10, 20)


@pytest.mark.parametrize("most_requests", [25, 50_000])
def test_a_full_queue_at_the_provider_is_waited_for_or_sent_smaller_files(
    sqlite_store: Store, most_requests: int
) -> None:
    """Batches that fail at validation for their tokens cost nothing, and all is labelled in the end."""
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS, batch_most_tokens=12_000, batch_seconds=0.3) as server:
        done = label(sqlite_store, how(server.base_url), "wait", terms=Terms(most_requests=most_requests))
        stats = server.stats()
    assert (done.labelled, done.disagreed, done.failed, done.unlabelled_left) == (32, 8, 0, 0)
    assert (stats["paid"], stats["paid_again"]) == (80, 0)
    assert done.batches is not None
    assert done.batches["refused"] >= 1
    assert "Enqueued token limit reached" in done.batches["problems"][0]


def test_a_batch_that_the_provider_refuses_loses_nothing(sqlite_store: Store) -> None:
    """One request is more than the queue holds: the run says so and ends, and asking online works as before."""
    put_texts(sqlite_store, TEXTS[:3])
    with TeacherServer(ANSWERS, batch_most_tokens=10) as server:
        done = label(sqlite_store, how(server.base_url), "wait")
        assert (done.items, done.unlabelled_left, done.waiting, done.cost_usd) == (0, 3, 0, 0.0)
        assert done.batches is not None
        assert "Enqueued token limit" in done.batches["problems"][0]
        assert store_is_clean(sqlite_store)
        assert label(sqlite_store, how(server.base_url), "none").labelled == 2


def store_is_clean(store: Store) -> bool:
    """Nothing waits, and nothing counts as paid."""
    waiting = select(func.count()).where(schema.batches.c.closed_at.is_(None))
    return not store.scalar(waiting) and not count(store, "answers")


def test_a_provider_without_a_batch_api_is_named_with_the_remedy(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS[:3])
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        with pytest.raises(FatalTeacherError, match="leave out --batch") as raised:
            label(sqlite_store, how(teacher.base_url), "wait")
        assert raised.value.error_class == "no_batch_api"
        assert store_is_clean(sqlite_store)
        assert label(sqlite_store, how(teacher.base_url), "none").labelled == 3


def test_a_wrong_key_is_said_at_once(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS[:3])
    with (
        TeacherServer(ANSWERS, api_key="another") as server,
        pytest.raises(FatalTeacherError, match="unauthorized") as raised,
    ):
        label(sqlite_store, how(server.base_url), "wait")
    assert KEY not in str(raised.value)
    assert store_is_clean(sqlite_store)


def test_money_that_runs_out_in_a_batch_stops_the_run_and_keeps_what_was_paid(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS, budget_calls=30) as server:
        with pytest.raises(FatalTeacherError, match="no_money"):
            label(sqlite_store, how(server.base_url), "wait")
        assert server.stats()["batches"] == 1
    assert rows(sqlite_store, "status").filter(pl.col("status") == "ok").height == 30
    assert count(sqlite_store, "labels") > 0


def test_cancelling_fetches_what_was_done_and_the_rest_can_be_asked_online(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS, batch_seconds=3.0) as server:
        asked = how(server.base_url)
        label(sqlite_store, asked, "submit")
        while server.stats()["paid"] < 5:
            continue
        ended_early = label(sqlite_store, asked, "cancel", run_id=2)
        paid = server.stats()["paid"]
        assert 5 <= paid < 80
        assert (ended_early.calls, ended_early.waiting) == (paid, 0)
        assert sqlite_store.scalar(select(schema.batches.c.status)) == "cancelled"
        rest = label(sqlite_store, asked, "none", run_id=3)
        stats = server.stats()
    assert rest.unlabelled_left == 0
    assert (stats["paid"], stats["paid_again"], stats["batches"]) == (80, 0, 1)


def test_a_batch_the_provider_has_forgotten_is_asked_again(sqlite_store: Store) -> None:
    """A provider that was set up anew knows no batch: nothing waits for ever."""
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS, batch_seconds=60) as server:
        port = server.port
        label(sqlite_store, how(server.base_url), "submit")
    with TeacherServer(ANSWERS, port=port) as server:
        done = label(sqlite_store, how(server.base_url), "wait", run_id=2)
    assert (done.labelled, done.disagreed, done.unlabelled_left) == (32, 8, 0)
    assert done.batches is not None
    assert "does not know batch" in done.batches["problems"][0]
    assert sqlite_store.read(select(schema.batches.c.status))["status"].to_list() == ["lost", "completed"]


def test_what_can_never_be_answered_is_a_dead_letter_and_is_not_sent_again(sqlite_store: Store) -> None:
    put_texts(sqlite_store, [*TEXTS, "never heard of this one"])
    with TeacherServer(ANSWERS) as server:
        done = label(sqlite_store, how(server.base_url), "wait")
        again = label(sqlite_store, how(server.base_url), "wait")
        assert server.stats()["batches"] == 1
    assert (done.labelled, done.invalid, done.errors) == (32, 1, {"http_404": 2})
    assert (again.items, again.batches) == (0, None)
    columns = schema.answers.c
    dead = sqlite_store.read(
        select(columns.key, columns["pass"], columns.error_class, columns.reason).where(
            columns.label.is_(None)
        )
    )
    assert dead["error_class"].to_list() == ["http_404"] * 2
    assert set(dead["key"]) == {text_key("never heard of this one")}
    assert "no recorded text" in dead["reason"][0]


def test_when_all_lines_fail_alike_the_project_is_at_fault_and_not_the_items(sqlite_store: Store) -> None:
    """No dead letters are written: with the mistake mended everything is asked."""
    put_texts(sqlite_store, TEXTS)
    with (
        TeacherServer({"something else": "x"}) as server,
        pytest.raises(FatalTeacherError, match="all 80 requests of a batch failed this way"),
    ):
        label(sqlite_store, how(server.base_url), "wait")
    assert store_is_clean(sqlite_store)
    with TeacherServer(ANSWERS) as server:
        assert label(sqlite_store, how(server.base_url), "wait", run_id=2).labelled == 32


def test_failures_alike_in_a_batch_say_what_to_do(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with TeacherServer({"something else": "x"}) as server, pytest.raises(FatalTeacherError) as stopped:
        label(sqlite_store, how(server.base_url), "wait")
    assert str(stopped.value).endswith("check teacher.model, teacher.base_url and the taxonomy.")


@pytest.mark.parametrize("form", [{}, {"stages": 2}, {"items_per_call": 4}], ids=["one", "stages", "several"])
def test_what_cannot_wait_for_a_batch_is_paid_twice_and_its_first_answer_stands(
    store: Store, form: dict[str, Any]
) -> None:
    """The router wants its answer now. What the batch says later is kept as a call, counted, and changes nothing."""
    keys = put_texts(store, TEXTS)
    contents = pl.DataFrame(
        {"key": keys[:6], "text": TEXTS[:6], "image": None},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )
    other = {text: [HOSES, HOSES] for text in TEXTS}
    with TeacherServer(other) as online, TeacherServer(ANSWERS) as server:
        asked, now = how(server.base_url, **form), how(online.base_url, **form)
        label(store, asked, "submit")
        said = ask_once(store, now, contents, "route", 2, 2)
        assert said["label"].to_list() == [HOSES] * 6
        ended(server)
        done = label(store, asked, "wait", run_id=3)
        again = label(store, asked, "wait", run_id=4)
    assert done.batches is not None
    assert (done.batches["paid_twice"], again.calls, again.batches) == (6, 0, None)
    assert (done.failed, done.invalid, done.unlabelled_left) == (0, 0, 0)
    answers = current_answers(store, asked.version, columns=("key", "pass", "label"))
    first = dict(answers.filter(pl.col("pass") == 1).select("key", "label").iter_rows())
    assert first == dict.fromkeys(keys, KETTLES) | dict.fromkeys(keys[:6], HOSES)
    late = rows(store, "error_class", "batch_id", "cost_usd").filter(
        pl.col("error_class") == "answered_before"
    )
    if "items_per_call" not in form:
        assert late.height == 6
        assert all(cost > 0 for cost in late["cost_usd"])
    labels = dict(effective_labels(store).select("key", "label").iter_rows())
    # In the second pass two of the six are hoses, too; the others await review.
    assert [labels.get(key) for key in keys[:6]] == [HOSES, None, None, None, None, HOSES]


def test_a_measurement_waits_for_what_is_in_a_batch(sqlite_store: Store) -> None:
    """Gold that was sent before it was gold is not paid for again: it is left out now, and known a run later."""
    keys = put_texts(sqlite_store, TEXTS[:8])
    gold = pl.DataFrame(
        {"key": [*keys[:3], text_key(TEXTS[20])], "text": [*TEXTS[:3], TEXTS[20]], "image": None},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )
    with TeacherServer(ANSWERS) as server:
        asked = how(server.base_url)
        label(sqlite_store, asked, "submit")
        ended(server)
        said = ask_once(sqlite_store, asked, gold, "gold", 1, 2, write_labels=False, can_wait=True)
        assert said["error_class"].to_list() == ["in_batch"] * 3 + [None]
        assert server.stats()["requests"] == 1
        fetch_only(sqlite_store, asked)
        later = ask_once(sqlite_store, asked, gold, "gold", 1, 3, write_labels=False, can_wait=True)
        assert (later["label"].null_count(), server.stats()["requests"]) == (0, 1)
        assert server.stats()["paid_again"] == 0


def test_an_answer_outside_the_taxonomy_or_unreadable_follows_the_online_rules(sqlite_store: Store) -> None:
    """A wrong label is the teacher's answer at once; what cannot be read is asked three times, runs apart."""
    put_texts(sqlite_store, TEXTS[:3])
    answers = {TEXTS[0]: [KETTLES], TEXTS[1]: ["Toys > Dolls"], TEXTS[2]: [KETTLES]}

    def garble(passing: Passing) -> Passing:
        if not passing.path.endswith("/content"):
            return passing
        lines = [json.loads(line) for line in passing.body.splitlines()]
        for line in lines:
            # The third item's reason says which it is: its answer is spoilt.
            message = line["response"]["body"]["choices"][0]["message"]
            if line["custom_id"].endswith(spoilt):
                message["content"] = "I would say kettles, or"
        return replace(passing, body="".join(json.dumps(line) + "\n" for line in lines).encode())

    with TeacherServer(answers, api_key=KEY) as server, Meddler(server.base_url, garble) as meddler:
        asked = how(meddler.base_url, structured=False)
        for run in (1, 2, 3):
            label(sqlite_store, asked, "submit", passes=1, run_id=run)
            ended(server)
            places = sqlite_store.read(
                select(schema.batch_items.c.batch_id, schema.batch_items.c.line).where(
                    schema.batch_items.c.key == text_key(TEXTS[2])
                )
            )
            spoilt = f"-{places.sort('batch_id')['line'][-1]}"
            label(sqlite_store, asked, "none", passes=1, run_id=run) if run == 3 else fetch_only(
                sqlite_store, asked
            )
        assert server.stats()["batch_paid"] == 5
    columns = schema.answers.c
    said = sqlite_store.read(select(columns.key, columns.label, columns.error_class, columns.attempts))
    by_key = {row[0]: row[1:] for row in said.iter_rows()}
    assert by_key[text_key(TEXTS[0])] == (KETTLES, None, 1)
    assert by_key[text_key(TEXTS[1])][:2] == (None, "unknown_label")
    assert by_key[text_key(TEXTS[2])] == (None, "not_json", 3)


def fetch_only(store: Store, asked: Asking) -> None:
    asyncio.run(fetch(store, [asked], wait=False))


def test_odd_result_files_are_read_for_what_they_are_worth(sqlite_store: Store) -> None:
    """Unknown names are ignored and counted, doubles count once, a broken and a missing line are asked again."""
    put_texts(sqlite_store, TEXTS)

    def meddle(passing: Passing) -> Passing:
        if not passing.path.endswith("file-sim-000000000002/content"):
            return passing
        lines = passing.body.splitlines(keepends=True)
        stranger = lines[0].replace(b'"custom_id": "', b'"custom_id": "x')
        nobody = b'{"custom_id": null, "response": null}\n'
        odd = [stranger, *lines[:2], *lines[:20], b"\n", lines[20][:50] + b"\n", nobody, *lines[22:]]
        return replace(passing, body=b"".join(odd))

    with TeacherServer(ANSWERS) as server, Meddler(server.base_url, meddle) as meddler:
        done = label(sqlite_store, how(meddler.base_url), "wait")
        stats = server.stats()
        assert meddler.times("GET", "/files/file-sim-000000000002/content") == 3
    assert (done.labelled, done.disagreed, done.failed) == (32, 8, 0)
    assert done.batches is not None
    assert (done.batches["ignored_lines"], done.batches["submitted"]) == (1, 2)
    assert done.errors == {"batch_line_unreadable": 2, "batch_line_missing": 2}
    assert (stats["paid"], stats["paid_again"]) == (82, 2)
    assert count(sqlite_store, "answers") == 80


def test_a_download_that_is_cut_in_the_middle_is_repeated(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)

    def cut(passing: Passing) -> Passing:
        return replace(passing, cut=passing.path.endswith("/content") and passing.place <= 2)

    with TeacherServer(ANSWERS) as server, Meddler(server.base_url, cut) as meddler:
        time = FakeTime()
        done = label(sqlite_store, how(meddler.base_url, time=time), "wait")
        assert server.stats()["paid"] == 80
    assert (done.labelled, done.disagreed, done.errors) == (32, 8, {})
    assert time.slept[:2] == [0.5, 1.0]


@pytest.mark.parametrize("lost", ["/files", "/batches"])
def test_a_reply_that_got_lost_is_no_reason_to_pay_twice(sqlite_store: Store, lost: str) -> None:
    """The file is uploaded again, which is free; the batch is found by its metadata."""
    put_texts(sqlite_store, TEXTS)

    def drop(passing: Passing) -> Passing:
        return replace(passing, drop=(passing.method, passing.path, passing.place) == ("POST", lost, 1))

    with TeacherServer(ANSWERS) as server, Meddler(server.base_url, drop) as meddler:
        done = label(sqlite_store, how(meddler.base_url), "wait")
        stats = server.stats()
        assert meddler.times("POST", lost) == (2 if lost == "/files" else 1)
    assert (done.labelled, done.disagreed) == (32, 8)
    assert (stats["batches"], stats["paid"]) == (1, 80)


def test_a_provider_that_is_down_leaves_everything_to_a_later_run(sqlite_store: Store) -> None:
    """While submitting nothing remains, while waiting the batch stays open; both say what stopped them."""
    put_texts(sqlite_store, TEXTS)
    down = False

    def fail(passing: Passing) -> Passing:
        return replace(passing, status=503, body=b"{}") if down else passing

    with TeacherServer(ANSWERS, api_key=KEY) as server, Meddler(server.base_url, fail) as meddler:
        asked = how(meddler.base_url, max_attempts=2)
        down = True
        first = label(sqlite_store, asked, "wait")
        assert (first.stopped, first.waiting, first.unlabelled_left) == ("teacher_down", 0, 40)
        down = False
        label(sqlite_store, asked, "submit")
        down = True
        second = label(sqlite_store, asked, "wait")
        assert (second.stopped, second.waiting) == ("teacher_down", 80)
        down = False
        third = label(sqlite_store, asked, "wait")
        assert (third.labelled, third.disagreed, third.waiting) == (32, 8, 0)
        assert server.stats()["paid"] == 80


def test_each_of_two_stages_is_a_round_and_an_online_run_may_take_either(sqlite_store: Store) -> None:
    """First the first level, then only that branch; what a batch began is finished online, and the other way."""
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS, api_key=KEY) as server:
        asked = how(server.base_url, stages=2)
        first = label(sqlite_store, asked, "submit", limit=20)
        ended(server)
        second = label(sqlite_store, asked, "none", limit=20)
        assert server.stats()["batches"] == 1
        third = label(sqlite_store, asked, "wait")
        stats = server.stats()
    assert (first.waiting, first.labelled) == (40, 0)
    assert (second.items, second.calls, second.waiting) == (20, 80, 0)
    assert (third.items, third.calls, third.unlabelled_left) == (20, 80, 0)
    assert (stats["requests"], stats["batches"], stats["paid"], stats["batch_paid"]) == (40, 3, 160, 120)
    assert (second.labelled + third.labelled, second.disagreed + third.disagreed) == (32, 8)
    assert set(effective_labels(sqlite_store)["label"]) == {KETTLES}


def test_what_fails_in_company_is_asked_about_alone(sqlite_store: Store) -> None:
    """One text that nobody knows spoils the line of five; its neighbours are answered in the next round."""
    put_texts(sqlite_store, [*TEXTS[:39], "never heard of this one"])
    with TeacherServer(ANSWERS) as server:
        done = label(sqlite_store, how(server.base_url, items_per_call=5), "wait")
        stats = server.stats()
    assert (done.labelled, done.disagreed, done.invalid, done.failed) == (31, 8, 1, 0)
    assert (stats["batches"], stats["paid"], stats["paid_again"]) == (2, 2 * 7 + 2 * 4, 0)
    sizes = sqlite_store.read(select(schema.batches.c.requests))["requests"].to_list()
    assert sizes == [16, 10]


def test_ties_are_broken_in_a_round_of_their_own(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    answers = {text: [KETTLES, HOSES if i % 5 == 0 else KETTLES, KETTLES] for i, text in enumerate(TEXTS)}
    with TeacherServer(answers) as server:
        asked = replace(how(server.base_url), third_vote=True)
        done = label(sqlite_store, asked, "wait")
        stats = server.stats()
    assert (done.labelled, done.disagreed, done.tie_breaks) == (40, 0, 8)
    assert (stats["paid"], stats["batches"]) == (88, 2)
    stages = sqlite_store.read(select(schema.batches.c.stage, schema.batches.c.requests))
    assert stages.rows() == [("label", 80), ("tie_break", 8)]


def test_a_tie_breaker_at_another_provider_has_batches_of_its_own(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS) as server, TeacherServer(dict.fromkeys(TEXTS, HOSES)) as other:
        breaker = how(other.base_url, model="stronger")
        done = label(sqlite_store, replace(how(server.base_url), tie_breaker=breaker), "wait")
        assert (server.stats()["paid"], other.stats()["paid"]) == (80, 8)
    assert (done.labelled, done.disagreed, done.tie_breaks) == (40, 0, 8)
    labels = dict(effective_labels(sqlite_store).select("key", "label").iter_rows())
    assert Counter(labels.values()) == {KETTLES: 32, HOSES: 8}


def test_passes_with_models_of_their_own_go_into_files_of_their_own(sqlite_store: Store) -> None:
    """A provider takes one model a file; each pass is charged at its own price and kept under its own version."""
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS) as server:
        own = {2: ("another", 0.7)}
        asked = replace(
            how(server.base_url),
            connect=lambda: OpenAITeacher(server.base_url, KEY, "some-model", 0.0, 100, 10.0, 8, own),
            by_pass={2: OtherPass("another", 0.7, Price(0.0, 0.0))},
        )
        first = label(sqlite_store, asked, "submit")
        online = label(sqlite_store, asked, "none", limit=1)
        done = label(sqlite_store, asked, "wait")
        stats = server.stats()
    assert (first.waiting, online.calls + done.calls) == (80, 80)
    assert (done.labelled + online.labelled, stats["batches"], stats["paid"]) == (32, 2, 80)
    models = sqlite_store.read(select(schema.batches.c.model, schema.batches.c.requests))
    assert sorted(models.rows()) == [("another", 40), ("some-model", 40)]
    cost = rows(sqlite_store, "model", "cost_usd").group_by("model").agg(pl.col("cost_usd").max())
    assert dict(cost.rows())["another"] == 0.0
    assert dict(cost.rows())["some-model"] > 0.0
    said = sqlite_store.read(select(schema.answers.c["pass"], schema.answers.c.model).distinct())
    assert sorted(said.rows()) == [(1, "some-model"), (2, "another")]


def test_an_image_that_cannot_be_read_is_a_dead_letter_and_hurts_nobody(sqlite_store: Store) -> None:
    written = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(written, "PNG")
    images = [written.getvalue(), b"no image at all"]
    frame = pl.DataFrame(
        {
            "key": [image_key(image) for image in images],
            "source_id": ["a", "b"],
            "text": None,
            "image": images,
        },
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary},
    )
    append_items(sqlite_store, frame, "source", 1)
    with TeacherServer({images[0]: KETTLES}) as server:
        done = label(sqlite_store, how(server.base_url, modality="image"), "wait")
        again = label(sqlite_store, how(server.base_url, modality="image"), "wait")
        assert server.stats()["batches"] == 1
    assert (done.labelled, done.invalid, done.errors) == (1, 1, {"unreadable_image": 2})
    assert again.items == 0


def test_a_reply_to_a_prompt_that_has_changed_is_kept_and_the_item_asked_anew(sqlite_store: Store) -> None:
    """What was paid for is in the ledger with its reply, and is no answer under the new prompt."""
    put_texts(sqlite_store, TEXTS)
    with TeacherServer(ANSWERS) as server:
        label(sqlite_store, how(server.base_url), "submit")
        changed = how(server.base_url, instructions="Say what it is.")
        done = label(sqlite_store, changed, "wait", run_id=2)
        assert server.stats()["paid"] == 160
    assert (done.labelled, done.disagreed) == (32, 8)
    assert done.errors == {"prompt_changed": 80}
    calls = rows(sqlite_store, "error_class", "reply", "cost_usd", "run_id").filter(pl.col("run_id") == 1)
    assert calls["error_class"].to_list() == ["prompt_changed"] * 80
    assert calls["reply"].null_count() == 0
    assert calls["cost_usd"].min() > 0  # type: ignore[operator]
    assert count(sqlite_store, "answers") == 80


def test_progress_is_told_in_lines_and_ends_with_the_cost(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    told: list[tuple[int, int, float]] = []
    with TeacherServer(ANSWERS, batch_seconds=0.5) as server:
        asked = how(server.base_url)
        label(sqlite_store, asked, "submit")
        done = asyncio.run(
            fetch(sqlite_store, [asked], True, POLL_SECONDS, lambda *row: told.append(row), asyncio.sleep)
        )
    assert {total for _, total, _ in told} == {80}
    assert [lines for lines, _, _ in told] == sorted(lines for lines, _, _ in told)
    assert len({lines for lines, _, _ in told}) > 3
    assert told[-1] == (80, 80, done.asked.cost_usd)
    assert done.asked.cost_usd > 0


def test_the_step_keeps_to_the_project_and_sets_the_money_of_open_batches_aside(
    tiny_project: Callable[..., Path], tmp_path: Path
) -> None:
    file = tiny_project()
    book = recorded_answers(file.parent / "answers.parquet", answer_columns=("a", "b"))
    with TeacherServer(book, batch_seconds=60) as server:
        terms = {"poll_seconds": POLL_SECONDS, "most_requests": 50}
        tiny_project(teacher={"base_url": server.base_url, "batch": terms, "budget_usd": 1.0})
        project = load_project(file)
        take_in_items.fn(project, 1)
        sent = label_with_teacher.fn(project, 1, 40, batches="submit")
        store = open_store(project.database_url, project.project)
        reserved = store.scalar(select(func.sum(schema.batches.c.reserved_usd)))
        assert (sent.waiting, sent.unlabelled_left) == (80, 40)
        assert store.read(select(schema.batches.c.requests))["requests"].to_list() == [50, 30]
        assert left_of_run(store, 1, project.teacher.budget_usd) == pytest.approx(1.0 - reserved)
        assert left_of_run(store, 2, project.teacher.budget_usd) == 1.0
        assert items_still_wanted(project, 50) == 10
        ended_early = label_with_teacher.fn(project, 2, batches="cancel")
        assert (ended_early.waiting, ended_early.unlabelled_left) == (0, 60)
        assert left_of_run(store, 1, project.teacher.budget_usd) == 1.0
        store.close()


def test_not_waiting_without_a_batch_is_wrong_usage(
    tiny_project: Callable[..., Path], tmp_path: Path
) -> None:
    said = flywheel("label", "--project", tiny_project(), "--no-wait", cwd=tmp_path)
    assert said.code == 2
    assert "--no-wait goes with --batch" in said.err
