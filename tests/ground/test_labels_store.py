"""Labels: append-only, and which one of an item counts."""

from __future__ import annotations

import random
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from tasks.records import SOURCES
from tasks.store import Store, schema
from tasks.store.labels import (
    append_labels,
    disputed_keys,
    effective_labels,
    newest_label_id,
    raw_labels,
    resolve,
    upper_labels,
)

LABELS = st.sampled_from(["A", "B", "C"])
LABELLED = st.tuples(
    st.sampled_from([b"k1", b"k2"]), LABELS, st.sampled_from([s for s in SOURCES if s != "disagreed"])
)
WITHDRAWN = st.tuples(st.sampled_from([b"k1", b"k2"]), st.none(), st.just("disagreed"))
HISTORIES = st.lists(st.one_of(LABELLED, LABELLED, WITHDRAWN), max_size=14)
Rows = list[tuple[bytes, str | None, str]]


def frame(rows: Rows) -> pl.DataFrame:
    return pl.DataFrame(
        [(number, *row) for number, row in enumerate(rows, start=1)],
        schema={"id": pl.Int64, "key": pl.Binary, "label": pl.String, "source": pl.String},
        orient="row",
    )


def resolved(rows: Rows) -> dict[bytes, tuple[str | None, str]]:
    found = resolve(frame(rows))
    assert found["key"].n_unique() == found.height
    return {key: (label, source) for key, label, source in found.rows()}


def by_the_rules(rows: Rows) -> dict[bytes, tuple[str | None, str]]:
    """The rules of the design, written the slow way."""
    found = {}
    for key in {row[0] for row in rows}:
        history = [(label, source) for k, label, source in rows if k == key]
        for group in (
            {"human"},
            {"adjudicated"},
            {"consensus", "single", "partial", "disagreed"},
            {"imported"},
            {"synthetic"},
        ):
            told = [row for row in history if row[1] in group]
            if not told:
                continue
            if group == {"imported"}:
                votes = Counter(label for label, _ in told).most_common()
                tie = len(votes) > 1 and votes[0][1] == votes[1][1]
                found[key] = (None if tie else votes[0][0], "imported")
            else:
                label, source = told[-1]
                found[key] = (None if source == "partial" else label, source)
            break
    return found


@given(HISTORIES)
def test_every_history_resolves_by_the_rules(rows: Rows) -> None:
    """Rank first, then the newest; imports by majority; one row a key and none for unknown keys."""
    assert resolved(rows) == by_the_rules(rows)


@given(HISTORIES, st.randoms(use_true_random=False))
def test_the_order_of_rows_in_a_frame_does_not_matter(rows: Rows, shuffle: random.Random) -> None:
    """Ids tell the order, not the place in the frame."""
    mixed = frame(rows)
    order = list(range(mixed.height))
    shuffle.shuffle(order)
    assert resolve(mixed[order]).sort("key").equals(resolve(mixed).sort("key"))


@given(HISTORIES, LABELS)
def test_a_person_has_the_last_word(rows: Rows, label: str) -> None:
    """After a human label nothing but another human label changes an item."""
    history = [*rows, (b"k1", label, "human")]
    assert resolved(history)[b"k1"] == (label, "human")
    for source in SOURCES:
        later = (b"k1", None if source == "disagreed" else "Z", source)
        expected = ("Z", "human") if source == "human" else (label, "human")
        assert resolved([*history, later])[b"k1"] == expected


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([("A", "imported"), ("B", "single")], ("B", "single")),
        ([("A", "single"), ("B", "consensus")], ("B", "consensus")),
        ([("A", "consensus"), ("B", "single")], ("B", "single")),
        ([("A", "adjudicated"), ("B", "consensus")], ("A", "adjudicated")),
        ([("A", "human"), ("B", "adjudicated")], ("A", "human")),
        ([("A", "single"), (None, "disagreed")], (None, "disagreed")),
        ([("A", "imported"), (None, "disagreed")], (None, "disagreed")),
        ([(None, "disagreed"), ("A", "consensus")], ("A", "consensus")),
        ([(None, "disagreed"), ("A", "imported")], (None, "disagreed")),
        ([("A", "adjudicated"), (None, "disagreed")], ("A", "adjudicated")),
        ([("A", "imported"), ("B", "imported"), ("B", "imported")], ("B", "imported")),
        ([("A", "imported"), ("B", "imported")], (None, "imported")),
        ([("A", "imported"), ("B", "imported"), ("C", "human")], ("C", "human")),
        ([("A", "synthetic"), ("B", "imported")], ("B", "imported")),
        ([("A > a", "single"), ("A", "partial")], (None, "partial")),
        ([("A", "partial"), ("A > a", "consensus")], ("A > a", "consensus")),
        ([("B", "imported"), ("A", "partial")], (None, "partial")),
        ([("A", "partial"), ("A > a", "human")], ("A > a", "human")),
    ],
)
def test_which_label_counts(history: list[tuple[str | None, str]], expected: tuple[str | None, str]) -> None:
    """The cases the design names, one by one."""
    assert resolved([(b"k", label, source) for label, source in history]) == {b"k": expected}


def test_a_partial_label_is_no_label_but_says_on_what_the_passes_agree(store: Store) -> None:
    """It counts as disputed, and only while no decision or consensus has come after it."""
    first, second = b"a" * 16, b"b" * 16
    append_labels(store, [(first, "A", "partial"), (second, "B", "partial")], run_id=1)
    assert effective_labels(store).height == 0
    assert set(disputed_keys(store)["key"]) == {first, second}
    assert upper_labels(raw_labels(store)).rows() == [(first, "A"), (second, "B")]
    append_labels(store, [(first, "A > a", "human"), (second, None, "disagreed")], run_id=2)
    assert upper_labels(raw_labels(store)).height == 0


def test_labels_are_only_ever_appended(store: Store) -> None:
    """Each change is a new row; the raw ones stay as they were, and the newest id grows."""
    assert newest_label_id(store) == 0
    assert effective_labels(store).height == disputed_keys(store).height == 0
    assert append_labels(store, [(b"a" * 16, "A", "single"), (b"b" * 16, "B", "single")], run_id=1) == 2
    before, newest = raw_labels(store), newest_label_id(store)
    append_labels(store, [(b"a" * 16, None, "disagreed"), (b"b" * 16, "C", "human")], run_id=2)
    after = raw_labels(store)
    assert after.head(2).equals(before)
    assert after.height == 4
    assert newest_label_id(store) > newest
    assert effective_labels(store).rows() == [(b"b" * 16, "C", "human")]
    assert disputed_keys(store)["key"].to_list() == [b"a" * 16]


@pytest.mark.parametrize(
    "row", [(b"k" * 16, "A", "gossip"), (b"k" * 16, None, "single"), (b"k" * 16, "A", "disagreed")]
)
def test_a_label_of_no_known_kind_is_never_written(store: Store, row: tuple[bytes, str | None, str]) -> None:
    """Unknown sources, and labels missing or present where they may not be, leave the table empty."""
    with pytest.raises(AssertionError):
        append_labels(store, [(b"g" * 16, "A", "single"), row], run_id=1)
    assert store.read(select(schema.labels.c.id)).height == 0
