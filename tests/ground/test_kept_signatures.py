"""Signatures kept by key: the same as computed ones, computed once, and mended where a file is broken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks import kept_signatures as module
from tasks.duplicates import near_duplicate_groups, near_duplicates_of, signatures
from tasks.kept_signatures import kept_signatures

TEXTS = [f"{colour} {thing} {n}" for n in range(15) for colour in ("red", "blue") for thing in ("cup", "jug")]
KEYS = pl.Series("key", [n.to_bytes(16, "big") for n in range(len(TEXTS))], pl.Binary)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many signatures each call computed."""
    counted: list[int] = []

    def counting(texts: Sequence[str]) -> np.ndarray:
        counted.append(len(texts))
        return signatures(texts)

    monkeypatch.setattr(module, "KEPT_FROM", 5)
    monkeypatch.setattr(module, "signatures", counting)
    return counted


def test_only_new_texts_are_signed(tmp_path: Path, computed: list[int]) -> None:
    """Whatever the order and whoever has gone, what is known is read and the rest is computed, once."""
    first = kept_signatures(tmp_path, KEYS[:40], TEXTS[:40])
    assert np.array_equal(first, signatures(TEXTS[:40]))
    again = kept_signatures(tmp_path, KEYS[::-1], TEXTS[::-1])
    assert np.array_equal(again, signatures(TEXTS[::-1]))
    assert np.array_equal(kept_signatures(tmp_path, KEYS[7:50], TEXTS[7:50]), signatures(TEXTS[7:50]))
    assert computed == [40, len(TEXTS) - 40]


def test_few_texts_leave_no_file(tmp_path: Path) -> None:
    assert np.array_equal(kept_signatures(tmp_path, KEYS, TEXTS), signatures(TEXTS))
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_computed_anew(tmp_path: Path, computed: list[int]) -> None:
    """A file that cannot be read costs its signatures once more and nothing else."""
    kept_signatures(tmp_path, KEYS, TEXTS)
    (part,) = tmp_path.glob("*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    assert np.array_equal(kept_signatures(tmp_path, KEYS, TEXTS), signatures(TEXTS))
    kept_signatures(tmp_path, KEYS, TEXTS)
    assert computed == [len(TEXTS)] * 2


def test_many_parts_become_one(tmp_path: Path, computed: list[int]) -> None:
    """A night adds a part; they are merged before they are many, and nothing is lost by it."""
    for end in range(10, 10 + module.MOST_PARTS + 1):
        kept_signatures(tmp_path, KEYS[:end], TEXTS[:end])
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    assert np.array_equal(kept_signatures(tmp_path, KEYS[:20], TEXTS[:20]), signatures(TEXTS[:20]))
    assert sum(computed) == 10 + module.MOST_PARTS


def test_known_signatures_change_no_answer() -> None:
    """Texts are looked at in blocks; what is found does not depend on who computed the signatures."""
    known = np.concatenate([signatures(TEXTS[:13]), signatures(TEXTS[13:])])
    assert np.array_equal(near_duplicate_groups(TEXTS, signed=known), near_duplicate_groups(TEXTS))
    assert np.array_equal(
        near_duplicates_of(TEXTS, TEXTS[:3], signed=known), near_duplicates_of(TEXTS, TEXTS[:3])
    )
