"""What a person looks at first: surest contradictions, then open questions, then rare labels; each item once."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tasks.labeling.contradictions import CONTRADICTION_SCHEMA, confident_contradictions
from tasks.labeling.review_queue import QUEUE_SCHEMA, SHOWN_SCHEMA, review_queue, with_contents
from tasks.labeling.review_reasons import REASONS
from tasks.records import text_key
from tasks.store import Store
from tasks.store.labels import append_labels
from tasks.store.synthetic import append_synthetic
from tests.labeling.reviewing import put_answers, put_audit
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, put_texts, taxonomy


def _shown(store: Store, queue: pl.DataFrame) -> pl.DataFrame:
    return pl.concat(list(with_contents(store, queue)))


def _looks(store: Store, queue: pl.DataFrame) -> list[tuple[str, str]]:
    return list(_shown(store, queue).select("text", "why").iter_rows())


def _contradicted(*rows: tuple[str, str, float | None]) -> pl.DataFrame:
    shaped = [(text_key(text), label, sure) for text, label, sure in rows]
    return pl.DataFrame(shaped, schema=CONTRADICTION_SCHEMA, orient="row")


def test_the_order_is_that_of_a_looks_worth(store: Store) -> None:
    """Every reason in its place, the surest contradiction first within it, the rarest label first at the end."""
    put_answers(
        store,
        {
            **{f"kettle {i}": [KETTLES, KETTLES] for i in range(8)},
            "unsure passes": [(KNIVES, 0.5), (HOSES, 0.6)],
            "sure passes": [(KNIVES, 0.9), (HOSES, 0.95)],
            "dead": [None, None],
            "half dead": [KETTLES, None],
            "rare, sure": [(KNIVES, 0.9), (KNIVES, 0.9)],
            "rare, unsure": [(KNIVES, 0.3), (KNIVES, 0.4)],
            "rarest": [HOSES, HOSES],
            "waiting": [None],
        },
    )
    put_texts(store, ["tied import", "tied import of more"])
    votes = [("tied import", label) for label in (KNIVES, HOSES)]
    votes += [("tied import of more", label) for label in (KNIVES, KNIVES, HOSES, HOSES)]
    append_labels(store, ((text_key(text), label, "imported") for text, label in votes), 1)
    put_audit(store, "kettle 1", HOSES, KETTLES, 0.97)
    put_audit(store, "kettle 2", HOSES, KETTLES, 0.98)
    put_audit(store, "kettle 3", KETTLES, KETTLES, 0.99)
    doubts = _contradicted(
        ("kettle 4", KNIVES, 0.8),
        ("kettle 5", KNIVES, 0.9),
        ("kettle 2", KNIVES, 1.0),
        ("kettle 6", KNIVES, None),
    )
    queue = review_queue(store, taxonomy(), 2, doubts)
    assert dict(queue.schema) == QUEUE_SCHEMA
    assert dict(_shown(store, queue).schema) == SHOWN_SCHEMA
    assert _looks(store, queue) == [
        ("kettle 2", REASONS[0]),
        ("kettle 1", REASONS[0]),
        ("kettle 5", REASONS[1]),
        ("kettle 4", REASONS[1]),
        ("kettle 6", REASONS[1]),
        ("sure passes", REASONS[2]),
        ("unsure passes", REASONS[2]),
        ("tied import of more", REASONS[3]),
        ("tied import", REASONS[3]),
        ("dead", REASONS[4]),
        ("half dead", REASONS[4]),
        ("rarest", REASONS[5]),
        ("rare, unsure", REASONS[5]),
        ("rare, sure", REASONS[5]),
    ]
    first = queue.row(0, named=True)
    assert (first["student_label"], first["student_confidence"]) == (HOSES, 0.98)
    assert first["current_label"] == KETTLES
    said = _shown(store, queue)["said"].to_list()
    assert [[(one["model"], one["label"]) for one in row] for row in (said[0], said[8])] == [
        [("some-model", KETTLES), ("some-model", KETTLES)],
        [("imported", KNIVES), ("imported", HOSES)],
    ]
    assert review_queue(store, taxonomy(), 2, doubts, limit=3).equals(queue.head(3))


def test_an_audit_answered_late_is_a_difference_too(store: Store) -> None:
    """What a labelling run said about an owed audit counts as the teacher's answer."""
    put_answers(store, {"late": [KETTLES, KETTLES], "alike": [KETTLES, KETTLES]})
    put_audit(store, "late", KNIVES, None, 0.9)
    put_audit(store, "alike", KETTLES, None, 0.9)
    assert _looks(store, review_queue(store, taxonomy(), 2, rare_items=0)) == [("late", REASONS[0])]


def test_what_is_decided_gold_or_synthetic_is_not_asked_about(sqlite_store: Store) -> None:
    """Neither a person's own label nor gold nor a written example takes a person's time."""
    put_answers(sqlite_store, {name: [KNIVES, HOSES] for name in ("open", "human", "adjudicated", "gold")})
    decided = [(text_key(name), KNIVES, name) for name in ("human", "adjudicated")]
    append_labels(sqlite_store, decided, 2)
    append_synthetic(sqlite_store, [("written", "Garden > Seeds > Flowers")], 2)
    gold = pl.DataFrame({"key": [text_key("gold")]})
    looks = _looks(sqlite_store, review_queue(sqlite_store, taxonomy(), 2, gold_keys=gold, rare_items=100))
    assert looks == [("open", REASONS[2])]


def test_only_leaves_of_today_are_candidates_and_the_newest_of_a_pass(sqlite_store: Store) -> None:
    """A first stage's branch, a label that was renamed and an older prompt's answer are not shown."""
    put_answers(sqlite_store, {"one": [KNIVES, "Kitchen > Renamed"]}, prompt_version="old")
    put_answers(sqlite_store, {"one": ["Kitchen", "Garden"]}, prompt_version="stage one")
    put_answers(sqlite_store, {"one": [HOSES, KETTLES]}, prompt_version="new")
    (said,) = _shown(sqlite_store, review_queue(sqlite_store, taxonomy(), 2))["said"].to_list()
    assert [(one["pass"], one["label"]) for one in said] == [(1, HOSES), (2, KETTLES)]


def test_a_contradiction_that_was_settled_since_is_none(sqlite_store: Store) -> None:
    """The derived files may be old: the label of today is compared, and an unknown one is no contradiction."""
    put_answers(
        sqlite_store, {"one": [KETTLES, KETTLES], "two": [KETTLES, KETTLES], "open": [KETTLES, KNIVES]}
    )
    doubts = _contradicted(("one", KETTLES, 0.9), ("two", "Kitchen > Gone", 0.9), ("open", HOSES, 0.9))
    looks = _looks(sqlite_store, review_queue(sqlite_store, taxonomy(), 2, doubts, rare_items=0))
    assert looks == [("open", REASONS[2])]


def test_an_empty_project_has_an_empty_queue(sqlite_store: Store) -> None:
    queue = review_queue(sqlite_store, taxonomy(), 2)
    assert queue.height == 0
    assert dict(queue.schema) == QUEUE_SCHEMA
    assert list(with_contents(sqlite_store, queue)) == []


def test_the_newest_cleaning_and_the_newest_retrain_say_what_is_contradicted(tmp_path: Path) -> None:
    """Uncovered rows, agreements, older files and half a file are left out; a view with a confidence comes first."""
    assert confident_contradictions(tmp_path).height == 0
    keys = [text_key(str(number)) for number in range(4)]

    def held_out(version: int, answered: list[str], covered: list[bool]) -> None:
        file = tmp_path / "retrains" / f"{version}.heldout.parquet"
        file.parent.mkdir(exist_ok=True)
        frame = {"key": keys[:3], "label": [KETTLES] * 3, "answered": answered, "covered": covered}
        pl.DataFrame(frame).write_parquet(file)

    held_out(9, [HOSES] * 3, [True] * 3)
    held_out(10, [KNIVES, KNIVES, KETTLES], [True, False, True])
    cleaned = {
        "key": keys,
        "label": [KNIVES, KETTLES, KETTLES, HOSES],
        "overwritten": [True, False, False, True],
    }
    file = tmp_path / "snapshots" / "abc" / "cleaned-cross_fitted-x.parquet"
    file.parent.mkdir(parents=True)
    pl.DataFrame(cleaned).write_parquet(file)
    found = confident_contradictions(tmp_path)
    assert sorted(found.select("key", "student_label").iter_rows()) == sorted(
        [(keys[0], KNIVES), (keys[3], HOSES)]
    )
    suspects = {
        "suspect": [False, True, False, False],
        "favourite": [HOSES] * 4,
        "confidence": [0.9, 0.8, 0.7, 0.6],
    }
    pl.DataFrame(cleaned | suspects).write_parquet(file)
    assert list(confident_contradictions(tmp_path).iter_rows()) == [
        (keys[0], KNIVES, 0.9),
        (keys[1], HOSES, 0.8),
        (keys[3], HOSES, 0.6),
    ]
    file.write_bytes(b"PAR1 half")
    assert confident_contradictions(tmp_path).select("key").rows() == [(keys[0],)]
