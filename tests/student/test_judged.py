"""Judged items: who judges what is decided by key, once and for good; and which sample certifies."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import text_key
from tasks.store import open_store
from tasks.store.items import append_items
from tasks.store.traffic import append_traffic, audits
from tasks.student.certifying import ENOUGH_ROWS, CalibrationSample, first_large_enough
from tasks.student.judged import MIN_TEMPERATURE_ROWS, judged_audits, with_roles
from tasks.student.package import Answers
from tests.monitoring.filled import items_of, request


def keys(count: int, salt: str = "") -> list[bytes]:
    return [hashlib.blake2b(f"{salt}{n}".encode(), digest_size=16).digest() for n in range(count)]


def roles(of: list[bytes]) -> dict[bytes, str]:
    frame = with_roles(pl.DataFrame({"key": of}, schema={"key": pl.Binary}))
    return dict(frame.select("key", "role").iter_rows())


def test_each_key_has_one_role_and_the_shares_are_as_stated() -> None:
    """Half evaluates, an eighth fits the temperature, three eighths certify; no key is in two."""
    found = roles(keys(4000))
    counts = Counter(found.values())
    assert counts.keys() == {"temperature", "calibration", "evaluation"}
    assert counts["evaluation"] == pytest.approx(2000, abs=130)
    assert counts["temperature"] == pytest.approx(500, abs=90)
    assert sum(counts.values()) == len(found) == 4000


def test_a_role_outlives_new_gold() -> None:
    """Gold that is added, or stands in another order, moves nobody to another role."""
    old, new = keys(2000), keys(2000, "new")
    before, after = roles(old), roles([*new, *reversed(old)])
    assert {key: after[key] for key in old} == before


@given(count=st.integers(0, 300))
def test_little_gold_certifies_with_the_whole_half(count: int) -> None:
    """Too few rows for a temperature: no row is set aside for it; evaluation is never touched."""
    found = roles(keys(count))
    spared = sum(role == "temperature" for role in found.values())
    assert spared == 0 or spared >= MIN_TEMPERATURE_ROWS
    assert {key for key, role in found.items() if role == "evaluation"} == {
        key for key, role in roles(keys(4000)).items() if role == "evaluation"
    } & set(found)


def test_audits_split_as_gold_does() -> None:
    """An item that is gold and audited evaluates in both or certifies in both."""
    both = keys(500)
    gold = roles(both)
    frame = pl.DataFrame(
        {"key": both, "teacher_label": ["x"] * 500}, schema={"key": pl.Binary, "teacher_label": pl.String}
    )
    none = pl.DataFrame(schema={"key": pl.Binary, "label": pl.String, "source": pl.String})
    audited = dict(judged_audits(frame, none).select("key", "role").iter_rows())
    assert {key for key, role in audited.items() if role == "evaluation"} == {
        key for key, role in gold.items() if role == "evaluation"
    }
    assert set(audited.values()) == {"calibration", "evaluation"}


def test_a_persons_word_beats_the_teachers_and_is_counted_as_such() -> None:
    """Human and adjudicated labels decide; an LLM's consensus decides nothing; an owed audit is left out."""
    a, b, c, d, e = keys(5)
    audited = pl.DataFrame(
        {"key": [a, b, c, d, e], "teacher_label": ["t", "t", "t", None, None]},
        schema={"key": pl.Binary, "teacher_label": pl.String},
    )
    labels = pl.DataFrame(
        {
            "key": [a, b, c, d],
            "label": ["h", "j", "l", "h"],
            "source": ["human", "adjudicated", "consensus", "human"],
        },
        schema={"key": pl.Binary, "label": pl.String, "source": pl.String},
    )
    found = judged_audits(audited, labels).select("key", "label", "against").rows()
    assert found == [
        (a, "h", "adjudicated"),
        (b, "j", "adjudicated"),
        (c, "t", "teacher"),
        (d, "h", "adjudicated"),
    ]


def test_what_a_cache_answered_judges_no_student(tmp_path: Path) -> None:
    """The student never saw those requests, or was trained on them; an audited miss counts even if cached since."""
    store = open_store(f"sqlite:///{tmp_path / 'f.db'}", "tiny")
    append_items(store, items_of(["cached", "missed", "both"]), "traffic", 1)
    watched: dict[str, Any] = {"audited": True, "teacher_label": "Garden > Hoses"}
    rows = [
        request("cached", "exact_cache", "Garden > Hoses", **watched),
        request("missed", "student", "Garden > Hoses", **watched),
        request("both", "fallback", None, **watched | {"would_tier": "teacher"}),
        request("both", "exact_cache", "Garden > Hoses", **watched) | {"request_id": b"another request!"},
    ]
    append_traffic(store, rows, 1)
    assert audits(store, 30)["key"].len() == 3
    assert audits(store, 30, misses_only=True)["key"].to_list() == [text_key("missed"), text_key("both")]
    store.close()


def sample(against: str, rows: int) -> CalibrationSample:
    answers = Answers(["x"] * rows, np.zeros(rows, np.int32), np.ones((rows, 1), np.float32))
    return CalibrationSample(against, answers, ["x"] * rows)


@pytest.mark.parametrize(
    ("audits", "gold", "chosen"),
    [
        (225, 560, "gold"),
        (225, 150, "adjudicated"),
        (225, 60, "adjudicated"),
        (500, 900, "adjudicated"),
        (99, 60, "teacher"),
    ],
)
def test_few_audits_leave_it_to_a_larger_gold(audits: int, gold: int, chosen: str) -> None:
    """Sizes alone decide, before anything is looked at."""
    found = first_large_enough([sample("adjudicated", audits), sample("gold", gold), sample("teacher", 900)])
    assert found is not None
    assert found.against == chosen


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ((150, 900, 900), 0),
        ((99, 100, 900), 1),
        ((20, 60, 40), 1),
        ((0, 0, 5), 2),
        ((0, 0, 0), None),
        ((), None),
    ],
)
def test_the_first_large_enough_sample_certifies(sizes: tuple[int, ...], chosen: int | None) -> None:
    """The most trustworthy with enough rows; where none has, the largest; where there is none, nothing."""
    assert ENOUGH_ROWS == 100
    samples = [sample(str(place), rows) for place, rows in enumerate(sizes)]
    found = first_large_enough(samples)
    assert (None if found is None else int(found.against)) == chosen
