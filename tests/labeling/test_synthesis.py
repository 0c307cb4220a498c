"""Writing examples for starved labels: what is asked, kept, paid for and counted, over real HTTP."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import func, select

from deployments.teacher_sim import TeacherServer
from tasks.errors import FatalTeacherError
from tasks.records import Synthesized, text_key
from tasks.store import Store, open_store, schema
from tasks.store.labels import raw_labels
from tasks.synthetic import SYNTHETIC
from tests.labeling.scripted import (
    COST_USD,
    HOSES,
    KETTLES,
    KNIVES,
    FakeTime,
    Said,
    ScriptedTeacher,
    fails,
)
from tests.labeling.writing import REAL, invented, real_items, starved, wish_in, write, writer, writes


def written_items(store: Store) -> dict[str, str]:
    """Texts with origin synthetic, and the label each was written for."""
    items, labels = schema.items.c, raw_labels(store)
    texts = store.read(select(items.key, items.text).where(items.origin == SYNTHETIC))
    assert set(labels["source"]) <= {SYNTHETIC}
    return dict(texts.join(labels, on="key").select("text", "label").iter_rows())


def calls(store: Store) -> pl.DataFrame:
    columns = schema.calls.c
    return store.read(
        select(columns.stage, columns.status, columns.error_class, columns.cost_usd, columns.reply).order_by(
            columns.id
        )
    )


def adds_up(done: Synthesized) -> bool:
    """Every written example is counted once."""
    return done.written == done.kept + done.duplicates + done.off_label + done.unusable + done.surplus


def test_what_is_kept_is_marked_synthetic_and_the_share_is_full(store: Store) -> None:
    """Six real examples allow six synthetic ones; each stands with its label, each call in the ledger."""
    real_items(store)
    with writer() as teacher:
        done = write(store, teacher.base_url)
    assert (done.kept, done.missing, done.stopped) == (12, 0, None)
    assert adds_up(done)
    assert done.by_label == {label: {"real": 6, "synthetic": 6, "missing": 0} for label in (KETTLES, KNIVES)}
    kept = written_items(store)
    assert sorted(kept.values()) == [KETTLES] * 6 + [KNIVES] * 6
    made = calls(store)
    assert set(made["stage"]) == {"synthesis"}
    assert set(made["status"]) == {"ok"}
    assert done.calls == made.height == teacher.requests
    assert done.cost_usd == pytest.approx(COST_USD * done.calls) == pytest.approx(made["cost_usd"].sum())
    assert store.scalar(select(func.count()).select_from(schema.answers)) == 0


def test_every_request_shows_a_few_real_examples_and_other_ones_each_time(store: Store) -> None:
    """No request repeats another's seed, or the teacher would write the same again."""
    real_items(store)
    with writer(lambda label, count, number: writes(["", ""], label)) as teacher:
        for run in (1, 2):
            write(store, teacher.base_url, run_id=run, wanted=starved()[:1])
    seeds = [body["seed"] for body in teacher.bodies]
    assert len(set(seeds)) == len(seeds) >= 2
    shown = [
        frozenset(text for text in REAL[KETTLES] if text in str(body["messages"])) for body in teacher.bodies
    ]
    assert all(len(texts) == 5 for texts in shown)
    assert len(set(shown)) > 1


def test_duplicates_are_dropped_counted_and_asked_for_again(store: Store) -> None:
    """A copy of a real item, the same twice, an empty one; the next round asks for what they leave missing."""
    real_items(store)

    def answer(label: str, count: int, number: int) -> Said:
        fresh = [invented(100 * number + n) for n in range(count)]
        return writes([REAL[label][0].upper(), fresh[0], fresh[0], " ", *fresh[1:]][:count], label)

    with writer(answer) as teacher:
        done = write(store, teacher.base_url, wanted=starved()[:1])
    counts = [wish_in(body)[1] for body in teacher.bodies]
    assert counts[0] == 9, "six are missing; one and a half times as many are asked for"
    assert len(counts) == 1 or counts[1] < 9
    assert (done.kept, done.missing) == (6, 0)
    assert done.duplicates >= 2
    assert done.unusable >= 1
    assert adds_up(done)
    assert not set(written_items(store)) & {text for texts in REAL.values() for text in texts}


def test_a_second_run_writes_only_what_is_still_missing(store: Store) -> None:
    """And nothing where nothing is."""
    real_items(store)
    with writer() as teacher:
        write(store, teacher.base_url)
        first = teacher.requests
        done = write(store, teacher.base_url, wanted=starved(kettles=6, knives=4), run_id=2)
        assert {wish_in(body)[0] for body in teacher.bodies[first:]} == {KNIVES}
        assert done.by_label[KETTLES] == {"real": 6, "synthetic": 6, "missing": 0}
        asked = teacher.requests
        assert write(store, teacher.base_url, wanted=starved(kettles=6, knives=6), run_id=3).written == 0
        assert teacher.requests == asked


def test_the_share_is_never_passed_however_much_is_written(store: Store) -> None:
    """A teacher with more than it was asked for, and four good examples too many: they are surplus."""
    real_items(store)
    with writer(lambda label, count, number: writes([invented(n) for n in range(40)], label)) as teacher:
        done = write(store, teacher.base_url, wanted=starved(below=8, most_share=0.25)[:1])
    assert (done.kept, done.written) == (2, 3)
    assert done.surplus == 1
    assert adds_up(done)


def test_a_label_that_a_round_brought_nothing_waits_for_the_next_run(store: Store) -> None:
    """Copies only: it is asked once, while the other label goes on."""
    real_items(store)

    def answer(label: str, count: int, number: int) -> Said:
        if label == KETTLES:
            return writes(REAL[KETTLES][:count], label)
        return writes([REAL[KNIVES][0], *(invented(100 * number + n) for n in range(2))], label)

    with writer(answer) as teacher:
        done = write(store, teacher.base_url)
    asked = [wish_in(body)[0] for body in teacher.bodies]
    assert asked.count(KETTLES) == 1
    assert asked.count(KNIVES) == 3
    assert done.by_label[KETTLES]["missing"] == 6
    assert done.by_label[KNIVES]["missing"] == 0
    assert (done.missing, done.stopped) == (6, None)


def test_the_budget_is_a_hard_stop_that_keeps_what_was_paid_for(store: Store) -> None:
    """Never a cent more, whatever was in flight; examples of the paid replies are items."""
    real_items(store)
    wanted = starved(below=200, most_share=0.95)
    with writer() as teacher:
        done = write(store, teacher.base_url, wanted=wanted, budget_usd=0.02, concurrency=3)
    assert done.stopped == "budget"
    assert 0 < done.cost_usd <= 0.02
    assert done.kept == len(written_items(store)) > 0
    assert done.calls == teacher.requests == calls(store).height
    assert done.missing > 0


def test_without_money_nothing_is_asked(store: Store) -> None:
    real_items(store)
    with writer() as teacher:
        done = write(store, teacher.base_url, budget_usd=0.0)
    assert (done.stopped, done.calls, teacher.requests) == ("budget", 0, 0)


def test_a_teacher_that_stumbles_is_asked_again(store: Store) -> None:
    """A 429 that names its pause, a 500, a dropped reply: nothing is lost, the pause is kept."""
    real_items(store)
    time = FakeTime()

    def answer(label: str, count: int, number: int) -> Said:
        if number in (2, 3):
            return fails(429, **{"Retry-After": "7"}) if number == 2 else fails(500)
        return writes([invented(100 * number + n) for n in range(count)], label)

    with writer(answer) as teacher:
        done = write(store, teacher.base_url, time=time)
    assert (done.kept, done.missing, done.stopped) == (12, 0, None)
    assert done.errors == {"rate_limited": 1, "http_500": 1}
    assert time.now >= 7


def test_garbage_is_paid_for_counted_and_asked_again(store: Store) -> None:
    """Prose, HTML with status 200, another label's examples: none is kept, all are in the ledger."""
    real_items(store)
    garbage = {1: Said("I would rather not."), 2: writes(["a nice new hose"], HOSES)}

    def answer(label: str, count: int, number: int) -> Said:
        return garbage.get(number) or writes([invented(100 * number + n) for n in range(count)], label)

    with writer(answer) as teacher:
        done = write(store, teacher.base_url)
    assert (done.kept, done.missing) == (12, 0)
    assert done.errors == {"not_json": 1, "other_label": 1}
    made = calls(store)
    assert made.filter(pl.col("status") == "invalid")["error_class"].sort().to_list() == [
        "not_json",
        "other_label",
    ]
    assert made["cost_usd"].sum() == pytest.approx(COST_USD * teacher.requests)
    assert "a nice new hose" not in written_items(store)


def test_a_refused_label_does_not_hurt_its_neighbours(store: Store) -> None:
    real_items(store)

    def answer(label: str, count: int, number: int) -> Said:
        if label == KETTLES:
            return fails(400, "this content is not allowed", "content_policy")
        return writes([invented(100 * number + n) for n in range(count)], label)

    with writer(answer) as teacher:
        done = write(store, teacher.base_url)
    assert [wish_in(body)[0] for body in teacher.bodies].count(KETTLES) == 1
    assert done.by_label[KNIVES]["missing"] == 0
    assert (done.errors, done.stopped) == ({"http_400": 1}, None)


def test_a_wrong_key_costs_one_request(store: Store) -> None:
    """It fails at once in the provider's words; nothing is written."""
    real_items(store)
    with writer(lambda *_: fails(401, "Incorrect API key provided")) as teacher:
        with pytest.raises(FatalTeacherError, match="Incorrect API key"):
            write(store, teacher.base_url, wanted=starved(below=200, most_share=0.95))
        assert teacher.requests == 1
    assert written_items(store) == {}


def test_a_teacher_that_is_down_is_said_to_be(store: Store) -> None:
    real_items(store)
    with writer(lambda *_: fails(503)) as teacher:
        done = write(store, teacher.base_url, max_attempts=2)
    assert (done.stopped, done.kept, done.calls) == ("teacher_down", 0, 0)
    assert teacher.requests <= 4


def test_without_a_schema_the_prompt_alone_asks_for_json(store: Store) -> None:
    """And the simulated teacher, too, understands that."""
    real_items(store)
    recorded = {text: [label] for label, texts in REAL.items() for text in texts}
    for structured in (True, False):
        with TeacherServer(recorded) as teacher:
            done = write(
                store, teacher.base_url, structured=structured, wanted=starved()[:1], run_id=1 + structured
            )
        assert done.written >= 9
        assert done.kept > 0
        assert done.errors == {}


def test_the_simulated_teacher_recombines_and_sometimes_copies(sqlite_store: Store) -> None:
    """Recorded texts come back among its examples, so that the screen has something to catch."""
    real_items(sqlite_store)
    recorded = {text: [label] for label, texts in REAL.items() for text in texts}
    with TeacherServer(recorded) as teacher:
        done = write(sqlite_store, teacher.base_url)
        assert teacher.stats()["paid"] == done.calls
    assert done.duplicates > 0
    assert adds_up(done)
    assert set(written_items(sqlite_store).values()) == {KETTLES, KNIVES}


def test_no_more_requests_at_once_than_the_teacher_takes(sqlite_store: Store) -> None:
    real_items(sqlite_store)
    recorded = {text: [label] for label, texts in REAL.items() for text in texts}
    with TeacherServer(recorded, latency_ms=30) as teacher:
        write(sqlite_store, teacher.base_url, wanted=starved(below=100, most_share=0.95), concurrency=3)
        stats: dict[str, Any] = teacher.stats()
    assert stats["requests"] > 6
    assert stats["peak_in_flight"] == 3


@pytest.mark.parametrize("after", [4, 9])
def test_kill_9_loses_no_more_than_was_in_flight(tmp_path: Path, after: int) -> None:
    """The examples of every finished wave are in the database, each with its label; the rest is asked again."""
    url, concurrency = f"sqlite:///{tmp_path / 'flywheel.db'}", 2
    store = open_store(url, "tiny")
    real_items(store)
    reached, lock = threading.Event(), threading.Lock()
    paid = 0

    def answer(label: str, count: int, number: int) -> Said:
        nonlocal paid
        with lock:
            paid += 1
            if paid == after:
                reached.set()
        return writes([invented(100 * number + n) for n in range(count)], label)

    def run(teacher: ScriptedTeacher) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "tests.labeling.killed_writing",
            url,
            teacher.base_url,
            str(concurrency),
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])

    with writer(answer) as teacher:
        first = run(teacher)
        assert reached.wait(60)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        kept = len(written_items(store))
        assert kept >= 10 * (paid - concurrency) > 0
        second = run(teacher)
        out, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert int(out) == 114 - kept
    assert len(written_items(store)) == 114
    items, labels = schema.items.c, schema.labels.c
    synthetic = store.read(select(items.key).where(items.origin == SYNTHETIC))
    assert synthetic.join(store.read(select(labels.key)), on="key", how="anti").height == 0
    store.close()


def test_keys_are_those_of_the_normalised_texts(store: Store) -> None:
    real_items(store)
    with writer(lambda label, count, number: writes([f"  {invented(7)}\t\n "], label)) as teacher:
        write(store, teacher.base_url, wanted=starved()[:1])
    items = schema.items.c
    (row,) = store.read(select(items.key, items.text).where(items.origin == SYNTHETIC)).rows()
    assert row == (text_key(invented(7)), invented(7))
