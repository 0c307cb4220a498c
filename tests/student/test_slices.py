"""Slices: what can be seen of an item without being told, and how right the student is there."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.student.slices import MOST_VALUES, OTHERS, Slice, by_content, scored_slices, script


@pytest.mark.parametrize(
    ("text", "writing"),
    [
        ("stainless kettle", "Latin"),
        ("Чайник электрический", "Cyrillic"),
        ("Чайник Bosch", "Cyrillic"),
        ("电热水壶", "Cjk"),
        ("ηλεκτρικός βραστήρας", "Greek"),
        ("غلاية كهربائية", "Arabic"),
        ("やかん", "Hiragana"),
        ("12-34 / 5", "no letters"),
    ],
)
def test_the_script_hints_at_the_language(text: str, writing: str) -> None:
    assert script(text) == writing


def test_length_and_rarity_are_classes_in_order() -> None:
    """Lengths by words (by letters where writing has no spaces), rarity by the rows that taught the label."""
    texts = ["kettle", "a red kettle with lid", "电热水壶不锈钢大容量", " ".join(["word"] * 300)]
    found = by_content(texts, np.array([0, 1, 21, 5000]))
    assert found["length in words"] == ["1 to 3", "4 to 6", "4 to 6", "101 and more"]
    assert found["rows of its label"] == ["0", "1", "21 to 100", "101 and more"]
    slices = scored_slices(
        {"rows of its label": found["rows of its label"]}, np.array([False, True, True, True])
    )
    assert [(of.value, of.items, of.right) for of in slices] == [
        ("0", 1, 0),
        ("1", 1, 1),
        ("21 to 100", 1, 1),
        ("101 and more", 1, 1),
    ]


def test_images_have_neither_script_nor_length() -> None:
    assert by_content([None, None], np.array([3, 4])).keys() == {"rows of its label"}


def test_every_known_value_is_counted_and_a_way_with_one_value_is_not_shown() -> None:
    """Items of unknown value count nowhere; of many values the rare ones are put together, last."""
    many = [f"shop {place}" for place in range(30) for _ in range(30 - place)]
    right = np.ones(len(many), bool)
    right[:30] = False
    slices = scored_slices({"source": many, "language": ["en"] * len(many)}, right)
    assert {of.by for of in slices} == {"source"}
    assert len(slices) == MOST_VALUES + 1
    assert slices[0] == Slice("source", "shop 0", 30, 0)
    assert slices[0].interval[1] < 0.15
    assert slices[-1].value == OTHERS
    assert sum(of.items for of in slices) == len(many)
    unknown = scored_slices({"source": ["a", "b", None, ""]}, np.array([True, False, True, True]))
    assert [(of.value, of.items, of.accuracy) for of in unknown] == [
        ("", 1, 1.0),
        ("a", 1, 1.0),
        ("b", 1, 0.0),
    ]
