"""What embeddings and the student say about items, out of a real cache and by a real student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks.embedding.embed import cache_for
from tasks.embedding.encoders import EncoderSettings
from tasks.labeling import sight
from tasks.labeling.acquisition import margins_of
from tasks.labeling.sight import look
from tasks.records import text_key
from tasks.student.linear import LinearHead
from tasks.student.package import Student
from tasks.taxonomy import build_taxonomy

ENCODER = EncoderSettings(model="hash:8")
OTHER_ENCODER = EncoderSettings(model="hash:8", prefix="query: ")
KEYS = [text_key(str(i)) for i in range(30)]
ITEMS = pl.DataFrame({"key": KEYS}, schema={"key": pl.Binary})
VECTORS = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)


def a_student(encoder: EncoderSettings = ENCODER, kind: str = "linear") -> Student:
    taxonomy = build_taxonomy({"a": None, "b": None, "c": None}, other=None)
    head = LinearHead(1.0).fit(VECTORS, np.arange(30) % 3, n_leaves=3, seed=0)
    return Student(taxonomy, head, kind, "text", encoder)


def nobody() -> None:
    return None


def test_only_what_has_a_vector_is_seen_in_the_order_asked(tmp_path: Path) -> None:
    """Also what is labelled; the places are those in the order asked about."""
    places = [7, 3, 20, 4]
    cache_for(ENCODER, tmp_path).append([KEYS[p] for p in places], VECTORS[places])
    asked = ITEMS.filter(~pl.col("key").is_in([KEYS[4]]))
    seen = look(asked, ITEMS[[4, 5]], tmp_path, ENCODER, nobody)
    assert seen is not None
    assert seen.margins is None
    assert seen.rows.tolist() == [3, 6, 19]
    np.testing.assert_array_equal(seen.vectors, VECTORS[[3, 7, 20]])
    np.testing.assert_array_equal(seen.labelled, VECTORS[[4]])


def test_without_vectors_no_student_is_looked_for(tmp_path: Path) -> None:
    """It would cost seconds; and a missing encoder package is no reason not to label."""

    def looked_for() -> None:
        pytest.fail("the student was loaded")

    assert look(ITEMS, ITEMS[:0], tmp_path, ENCODER, looked_for) is None
    missing = EncoderSettings(model="package:no-such-package-of-weights")
    assert look(ITEMS, ITEMS[:0], tmp_path, missing, looked_for) is None


def test_margins_are_the_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_for(ENCODER, tmp_path).append(KEYS, VECTORS)
    student = a_student()
    monkeypatch.setattr(sight, "MARGINS_AT_ONCE", 7)
    seen = look(ITEMS, ITEMS[:0], tmp_path, ENCODER, lambda: student)
    assert seen is not None
    assert seen.margins is not None
    np.testing.assert_allclose(seen.margins, margins_of(student.probabilities(VECTORS)), atol=1e-6)


def test_a_student_with_an_encoder_of_its_own_reads_its_own_vectors(tmp_path: Path) -> None:
    """Where they are not all there, there are no margins rather than wrong ones."""
    cache_for(ENCODER, tmp_path).append(KEYS, VECTORS)
    student, own = a_student(OTHER_ENCODER), cache_for(OTHER_ENCODER, tmp_path)
    own.append(KEYS[:20], -VECTORS[:20])
    partly = look(ITEMS, ITEMS[:0], tmp_path, ENCODER, lambda: student)
    assert partly is not None
    assert partly.margins is None
    own.append(KEYS[20:], -VECTORS[20:])
    whole = look(ITEMS, ITEMS[:0], tmp_path, ENCODER, lambda: student)
    assert whole is not None
    assert whole.margins is not None
    np.testing.assert_allclose(whole.margins, margins_of(student.probabilities(-VECTORS)), atol=1e-6)
    np.testing.assert_array_equal(whole.vectors, VECTORS)


def test_a_student_of_images_says_nothing_here(tmp_path: Path) -> None:
    """Reading a hundred thousand images would cost more than the better choice is worth."""
    cache_for(ENCODER, tmp_path).append(KEYS, VECTORS)
    seen = look(ITEMS, ITEMS[:0], tmp_path, ENCODER, lambda: replace(a_student(), kind="timm"))
    assert seen is not None
    assert seen.margins is None


def test_the_pool_and_the_labelled_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight, "POOL_ITEMS", 5)
    monkeypatch.setattr(sight, "LABELLED_ITEMS", 4)
    cache_for(ENCODER, tmp_path).append(KEYS, VECTORS)
    first = look(ITEMS, ITEMS[10:], tmp_path, ENCODER, nobody)
    again = look(ITEMS, ITEMS[10:].reverse(), tmp_path, ENCODER, nobody)
    assert first is not None
    assert again is not None
    assert first.rows.tolist() == [0, 1, 2, 3, 4]
    assert first.labelled.shape == (4, 8)
    np.testing.assert_array_equal(first.labelled, again.labelled)
