"""The screen: which written examples are kept, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tasks.embedding.encoders import HashEncoder
from tasks.labeling.screening import (
    DUPLICATE,
    FEWEST_COMPARED,
    KEPT,
    LONGEST_CHARACTERS,
    OFF_LABEL,
    UNUSABLE,
    Screen,
)
from tasks.records import text_key

ENCODER = HashEncoder(256)
REAL = ["stainless steel electric kettle", "whistling stovetop kettle", "glass tea kettle with timer"]


def screen(
    texts: Sequence[str] = REAL, labels: Sequence[str | None] | None = None, known: Sequence[str] = ()
) -> Screen:
    keys = pl.DataFrame({"key": [text_key(text) for text in (*texts, *known)]}, schema={"key": pl.Binary})
    vectors = ENCODER.encode(texts) if texts else np.zeros((0, 0), np.float32)
    return Screen(keys, texts, vectors, labels or ["Kettles"] * len(texts), ENCODER.encode)


def verdicts(judge: Screen, *texts: str, label: str = "Kettles") -> list[str]:
    return [verdict for _, verdict in judge.judge([(text, label) for text in texts])]


def test_what_is_there_already_is_a_duplicate() -> None:
    """The same text in another spacing, a near-duplicate of a real one, and an item that nobody labelled yet."""
    judge = screen(known=["copper kettle from the attic"])
    assert verdicts(
        judge,
        "  whistling\tstovetop kettle ",
        "stainless steel electric kettles",
        "copper kettle from the attic",
        "a travel jug that boils a cup of water",
    ) == [DUPLICATE, DUPLICATE, DUPLICATE, KEPT]


def test_the_same_meaning_in_other_words_is_a_duplicate() -> None:
    """No trigram is shared, the vectors lie together."""

    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.array([[3.0, 0.1 if "eau" in text else 0.0, 0.0] for text in texts], np.float32)

    keys = pl.DataFrame({"key": [text_key("kettle")]}, schema={"key": pl.Binary})
    judge = Screen(keys, ["kettle"], np.array([[1.0, 0.0, 0.0]], np.float32), ["Kettles"], encode)
    assert verdicts(judge, "bouilloire pour l'eau") == [DUPLICATE]
    apart = Screen(keys, ["kettle"], np.array([[0.0, 0.0, 1.0]], np.float32), ["Kettles"], encode)
    assert verdicts(apart, "bouilloire pour l'eau") == [KEPT]


def test_examples_are_compared_with_each_other_within_and_across_requests() -> None:
    judge = screen()
    assert verdicts(
        judge, "a jug for boiling", "a jug for boiling", "a jug for boilings", "camping pot with a spout"
    ) == [KEPT, DUPLICATE, DUPLICATE, KEPT]
    assert verdicts(judge, "Camping pot with a spout.", "enamel pot for the stove") == [DUPLICATE, KEPT]


def test_what_nobody_can_learn_from_is_unusable() -> None:
    assert verdicts(screen(), "", " \x00\t", "x" * (LONGEST_CHARACTERS + 1)) == [UNUSABLE] * 3


def test_texts_come_back_normalised() -> None:
    assert screen().judge([("  a  Jug\x00\tto boil ", "Kettles")]) == [("a Jug to boil", KEPT)]


def _two_labels(known: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    words = {
        "Kettles": ["kettle", "boil", "tea", "steam", "spout", "jug", "hot", "water"],
        "Shoes": ["shoe", "lace", "sole", "run", "trail", "leather", "size", "walk"],
    }
    texts = {
        label: [" ".join(rng.permutation(told)[:5]) for _ in range(200)] for label, told in words.items()
    }
    kettles = list(dict.fromkeys(texts["Kettles"]))[:known]
    shoes = list(dict.fromkeys(texts["Shoes"]))[:120]
    return kettles + shoes, ["Kettles"] * len(kettles) + ["Shoes"] * len(shoes)


def test_an_example_of_another_label_is_off_label() -> None:
    """A shoe written for kettles goes, a kettle stays, though only four real kettles are known."""
    texts, labels = _two_labels(4)
    judge = screen(texts, labels)
    written = ["walk the trail in a leather sole with lace", "steam from the spout of a jug for hot tea"]
    assert verdicts(judge, *written) == [OFF_LABEL, KEPT]
    assert verdicts(judge, "run the trail in a light shoe with a lace", label="Shoes") == [KEPT]


def test_of_a_label_never_seen_nothing_is_off_label() -> None:
    """There is nothing to be far from."""
    texts, labels = _two_labels(60)
    assert verdicts(screen(texts, labels), "walk the trail in a leather sole with lace", label="Boots") == [
        KEPT
    ]


def test_with_few_real_items_nothing_is_called_off_label() -> None:
    """What is usual cannot be told from a dozen."""
    texts, labels = _two_labels(4)
    few = FEWEST_COMPARED // 4
    judge = screen([*texts[:4], *texts[-few:]], [*labels[:4], *labels[-few:]])
    assert verdicts(judge, "walk the trail in a leather sole with lace") == [KEPT]


def test_the_first_example_of_an_empty_project_is_kept() -> None:
    """No item, no vector: nothing to compare with but the examples themselves."""
    assert verdicts(screen([]), "a jug for boiling", "a jug for boiling") == [KEPT, DUPLICATE]


@given(st.lists(st.text(max_size=12), max_size=12))
def test_what_is_kept_is_new_and_kept_once(written: list[str]) -> None:
    """Whatever is written: every example gets a verdict, no kept text is empty, known, or kept twice."""
    judge = screen()
    first = judge.judge([(text, "Kettles") for text in written])
    again = judge.judge([(text, "Kettles") for text in written])
    assert len(first) == len(again) == len(written)
    kept = [text for text, verdict in [*first, *again] if verdict == KEPT]
    assert len(set(kept)) == len(kept)
    assert all(text and text not in REAL for text in kept)
