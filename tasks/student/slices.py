"""Slices of judged items: by script, length, how rare their label is, and by columns of the gold file.

Knows texts, counts and columns; who is right on a slice is counted by `scored_slices`, nothing is chosen by it.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.student.intervals import wilson

WORDS = (3, 6, 12, 25, 50, 100)
"""Upper ends of the classes of length, in words; beyond the last one there is one more class."""

RARE = (1, 5, 20, 100)
"""The same for rarity: rows of the label that the student learned from."""

MOST_VALUES = 12
"""A column with more values shows the most frequent ones, the others together."""

OTHERS = "others"
UNSPACED = ("Cjk", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")


@dataclass(frozen=True)
class Slice:
    """One value of one way to slice: items, how many are right, and the share's 95 % interval (Wilson)."""

    by: str
    value: str
    items: int
    right: int

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.right / self.items

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high."""
        return wilson(self.right, self.items)


def scored_slices(slices: Mapping[str, Sequence[str | None]], right: NDArray[np.bool_]) -> list[Slice]:
    """Accuracy on every value of every way to slice; a way with one value tells nothing and is left out.

    Args:
        slices: by name, one value an item; None where it is not known.
        right: bool [n].
    """
    found = []
    for by, values in slices.items():
        known = _frequent(values)
        items = Counter(value for value in known if value is not None)
        if len(items) < 2:
            continue
        hits = Counter(value for value, is_right in zip(known, right.tolist(), strict=True) if is_right)
        found += [Slice(by, value, items[value], hits[value]) for value in _in_order(items)]
    return found


def by_content(texts: Sequence[str | None], taught: NDArray[np.integer]) -> dict[str, list[str | None]]:
    """What can be seen without being told: script and length of the text, and rows of the item's true label.

    Args:
        texts: None for images.
        taught: rows [n] of each item's label that the student learned from.
    """
    found: dict[str, list[str | None]] = {}
    if any(text is not None for text in texts):
        found["script"] = [None if text is None else script(text) for text in texts]
        found["length in words"] = [None if text is None else _class(_words(text), WORDS) for text in texts]
    found["rows of its label"] = ["0" if not rows else _class(rows, RARE) for rows in taught.tolist()]
    return found


def script(text: str) -> str:
    """The writing that most of its letters are of, as Unicode names it (Latin, Cyrillic, Cjk); a hint at language."""
    counts = Counter(unicodedata.name(letter, "?").split(" ")[0] for letter in text if letter.isalpha())
    if not counts:
        return "no letters"
    name, _ = min(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return name.capitalize()


def _words(text: str) -> int:
    """Words between spaces; in writing that has none two letters count as a word."""
    if script(text) in UNSPACED:
        return max(1, sum(letter.isalpha() for letter in text) // 2)
    return len(text.split())


def _class(value: int, ends: Sequence[int]) -> str:
    low = 1
    for high in ends:
        if value <= high:
            return str(high) if low == high else f"{low} to {high}"
        low = high + 1
    return f"{low} and more"


def _frequent(values: Sequence[str | None]) -> list[str | None]:
    counts = Counter(value for value in values if value is not None)
    if len(counts) <= MOST_VALUES:
        return list(values)
    kept = {value for value, _ in counts.most_common(MOST_VALUES)}
    return [value if value is None or value in kept else OTHERS for value in values]


def _in_order(items: Mapping[str, int]) -> list[str]:
    """Classes by their number, other values by how many items they have; the others last."""

    def place(value: str) -> tuple[bool, float, int, str]:
        first = value.split(" ")[0]
        return value == OTHERS, int(first) if first.isdecimal() else math.inf, -items[value], value

    return sorted(items, key=place)
