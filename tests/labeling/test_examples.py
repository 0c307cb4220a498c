"""Examples are decided items like the one that is asked about, unlike each other, and give nothing away."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.duplicates import near_duplicates_of
from tasks.embedding.encoders import HashEncoder
from tasks.labeling.examples import (
    LONGEST_CHARACTERS,
    MOST_OF_A_LABEL,
    Decided,
    choose_examples,
    may_be_shown,
)
from tasks.records import text_key

ENCODER = HashEncoder(64)
LEAVES = ("Kettles", "Knives", "Hoses")


def _decided(*rows: tuple[str, str]) -> Decided:
    texts = [text for text, _ in rows]
    return Decided(texts, [label for _, label in rows], ENCODER.encode(texts))


def _chosen(text: str, decided: Decided, count: int) -> list[tuple[str, str]]:
    places = choose_examples([text], ENCODER.encode([text]), decided, count)
    return list(decided.examples(places[0].tolist()))


def test_the_likest_comes_first_and_the_second_is_unlike_it() -> None:
    """Two ways of saying the same would show the teacher one thing twice."""
    decided = _decided(
        ("electric kettle with a handle", "Kettles"),
        ("electric kettle with two handles", "Kettles"),
        ("electric carving knife", "Knives"),
        ("garden hose on a reel", "Hoses"),
    )
    chosen = _chosen("electric kettle of steel", decided, 2)
    assert chosen[0][1] == "Kettles"
    assert chosen[1] == ("electric carving knife", "Knives")


def test_neither_the_item_itself_nor_its_near_duplicates_are_shown() -> None:
    item = "Borealis electric kettle 1.7 l"
    decided = _decided(
        (item, "Kettles"),
        (item.upper(), "Kettles"),
        ("Borealis electric kettle 1.7 ltr", "Kettles"),
        ("cast iron kettle for the stove", "Kettles"),
    )
    assert _chosen(item, decided, 4) == [("cast iron kettle for the stove", "Kettles")]


def test_one_label_does_not_crowd_out_the_others() -> None:
    kettles = [(f"kettle number {name}", "Kettles") for name in ("one", "eleven", "thousand", "forty", "six")]
    chosen = _chosen("kettle", _decided(*kettles, ("knife", "Knives"), ("hose", "Hoses")), 4)
    labels = [label for _, label in chosen]
    assert labels.count("Kettles") == MOST_OF_A_LABEL
    assert sorted(set(labels)) == sorted(LEAVES)


words = st.lists(
    st.sampled_from(["kettle", "knife", "hose", "steel", "red", "large", "for two"]), min_size=1, max_size=4
).map(" ".join)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(words, st.sampled_from(LEAVES)), max_size=30, unique_by=lambda row: row[0]),
    st.lists(words, min_size=1, max_size=6),
    st.integers(0, 6),
)
def test_whatever_there_is_the_rules_hold(rows: list[tuple[str, str]], texts: list[str], count: int) -> None:
    """So many at most, none twice, none like the item, few of a label."""
    decided = _decided(*rows) if rows else Decided([], [], np.zeros((0, 64), np.float32))
    places = choose_examples(texts, ENCODER.encode(texts), decided, count)
    assert places.shape == (len(texts), count)
    for text, found in zip(texts, places.tolist(), strict=True):
        kept = [place for place in found if place >= 0]
        assert found == kept + [-1] * (count - len(kept))
        assert len(set(kept)) == len(kept)
        labels = [decided.labels[place] for place in kept]
        assert all(labels.count(label) <= MOST_OF_A_LABEL for label in labels)
        assert not near_duplicates_of([decided.texts[place] for place in kept], [text]).any()


def _labels(**sources: str) -> pl.DataFrame:
    rows = [(text_key(text), "Kettles", source) for text, source in sources.items()]
    return pl.DataFrame(
        rows, schema={"key": pl.Binary, "label": pl.String, "source": pl.String}, orient="row"
    )


def _texts(*texts: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"key": [text_key(text) for text in texts], "text": list(texts)},
        schema={"key": pl.Binary, "text": pl.String},
    )


def _shown(labels: pl.DataFrame, **more: pl.DataFrame | int) -> list[str]:
    texts = ("reviewed", "judged", "escalated", "agreed", "once", "history", "written")
    given_frames: dict[str, pl.DataFrame] = {
        "contents": _texts(*texts),
        "escalated": _texts("escalated", "once").select("key"),
        "gold": _texts(),
        "withheld": _texts().select("key"),
    }
    return may_be_shown(labels, **(given_frames | more), leaves=LEAVES)["text"].to_list()  # type: ignore[arg-type]


SOURCES = {
    "escalated": "consensus",
    "agreed": "consensus",
    "once": "single",
    "history": "imported",
    "written": "synthetic",
    "judged": "adjudicated",
    "reviewed": "human",
}


def test_people_and_agreeing_escalations_decide_and_nobody_else() -> None:
    """What people decided stands first, in case there is too much of it."""
    assert _shown(_labels(**SOURCES)) == ["judged", "reviewed", "escalated"]
    assert _shown(_labels(**SOURCES), most=2) == ["judged", "reviewed"]


def test_gold_what_nearly_equals_it_and_what_judges_the_student_is_never_shown() -> None:
    labels = _labels(**SOURCES)
    assert _shown(labels, gold=_texts("reviewed")) == ["judged", "escalated"]
    assert _shown(labels, gold=_texts("Escalated ", "something else")) == ["judged", "reviewed"]
    assert _shown(labels, withheld=_texts("judged").select("key")) == ["reviewed", "escalated"]


def test_labels_that_are_gone_and_texts_that_are_too_long_are_left_out() -> None:
    gone = _labels(**SOURCES).with_columns(
        label=pl.when(pl.col("source") == "human").then(pl.lit("Toasters")).otherwise("label")
    )
    assert _shown(gone) == ["judged", "escalated"]
    long = "x" * (LONGEST_CHARACTERS + 1)
    assert _shown(_labels(**{long: "human"}), contents=_texts(long)) == []
