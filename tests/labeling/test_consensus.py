"""What passes amount to, and that labels only follow when something changed."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling.consensus import agreement, item_states, new_label_rows
from tasks.store.labels import resolve

ANSWERS = {"key": pl.Binary, "pass": pl.Int64, "label": pl.String}
RAW = {"id": pl.Int64, "key": pl.Binary, "label": pl.String, "source": pl.String}


def _answers(**items: list[str | None]) -> pl.DataFrame:
    rows = [
        (name.encode(), number, label) for name, said in items.items() for number, label in enumerate(said, 1)
    ]
    return pl.DataFrame(rows, schema=ANSWERS, orient="row")


def _states(answers: pl.DataFrame, passes: int) -> dict[str, tuple[str, str | None]]:
    return {key.decode(): (state, label) for key, state, label in item_states(answers, passes).iter_rows()}


def test_two_passes() -> None:
    answers = _answers(
        same=["a", "a"], differ=["a", "b"], dead=["a", None], both=[None, None], one=["a"], none=[None]
    )
    assert _states(answers, 2) == {
        "same": ("consensus", "a"),
        "differ": ("disagreed", None),
        "dead": ("invalid", None),
        "both": ("invalid", None),
        "one": ("single", "a"),
        "none": ("waiting", None),
    }


def test_one_pass_is_single_and_a_later_pass_does_not_count() -> None:
    assert _states(_answers(one=["a", "b"], dead=[None]), 1) == {
        "one": ("single", "a"),
        "dead": ("invalid", None),
    }


def test_of_three_passes_two_decide() -> None:
    answers = _answers(most=["a", "b", "a"], all=["a", "b", "c"], dead=["a", None, "a"], part=["a", "b"])
    assert _states(answers, 3) == {
        "most": ("consensus", "a"),
        "all": ("disagreed", None),
        "dead": ("consensus", "a"),
        "part": ("waiting", None),
    }


def _appended(raw: pl.DataFrame, rows: list[Any]) -> pl.DataFrame:
    new = pl.DataFrame([(raw.height + i, *row) for i, row in enumerate(rows)], schema=RAW, orient="row")
    return pl.concat([raw, new])


def test_a_label_is_withdrawn_when_a_later_pass_disagrees() -> None:
    raw = pl.DataFrame(schema=RAW)
    first = new_label_rows(item_states(_answers(item=["a"], dead=["a"]), 2), raw)
    assert first == [(b"item", "a", "single"), (b"dead", "a", "single")]
    raw = _appended(raw, first)
    second = new_label_rows(item_states(_answers(item=["a", "b"], dead=["a", None]), 2), raw)
    assert second == [(b"item", None, "disagreed"), (b"dead", None, "disagreed")]
    assert resolve(_appended(raw, second))["label"].to_list() == [None, None]


def test_a_human_label_neither_counts_as_the_llms_nor_is_outranked() -> None:
    raw = pl.DataFrame([(0, b"item", "b", "human")], schema=RAW, orient="row")
    rows = new_label_rows(item_states(_answers(item=["a", "a"]), 2), raw)
    assert rows == [(b"item", "a", "consensus")]
    assert resolve(_appended(raw, rows)).row(0) == (b"item", "b", "human")


_said = st.dictionaries(
    st.binary(min_size=1, max_size=1), st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=3)
)


@given(_said, st.integers(1, 3))
def test_resolving_twice_appends_nothing_the_second_time(
    said: dict[bytes, list[str | None]], passes: int
) -> None:
    rows = [(key, number, label) for key, labels in said.items() for number, label in enumerate(labels, 1)]
    states = item_states(pl.DataFrame(rows, schema=ANSWERS, orient="row"), passes)
    raw = pl.DataFrame(schema=RAW)
    raw = _appended(raw, new_label_rows(states, raw))
    assert new_label_rows(states, raw) == []


@given(_said, st.integers(1, 3))
def test_every_answered_item_has_one_state_and_a_label_only_where_it_should(
    said: dict[bytes, list[str | None]], passes: int
) -> None:
    rows = [(key, number, label) for key, labels in said.items() for number, label in enumerate(labels, 1)]
    states = item_states(pl.DataFrame(rows, schema=ANSWERS, orient="row"), passes)
    assert sorted(states["key"]) == sorted(said)
    for key, state, label in states.iter_rows():
        assert (label is not None) == (state in ("consensus", "single"))
        assert label is None or label in said[key][:passes]


def test_agreement_by_label_and_level_and_beyond_chance() -> None:
    answers = _answers(
        one=["x > a", "x > a"],
        two=["x > a", "x > b"],
        three=["y > c", "y > c"],
        four=["x > b", "y > c"],
        five=["x > a"],
    )
    found = agreement(answers, 2, ["l1", "l2"])
    assert (found.items, found.share) == (4, 0.5)
    assert found.by_level == {"l1": 0.75, "l2": 0.5}
    assert found.by_label == {"x > a": 0.5, "x > b": 0.0, "y > c": 0.5}
    # observed 0.5; expected (2*1 + 1*1 + 1*2) / 16
    assert found.kappa == pytest.approx((0.5 - 5 / 16) / (1 - 5 / 16))


def test_nothing_to_compare_gives_no_numbers() -> None:
    assert agreement(_answers(), 2, ["l1"]).share is None
    assert agreement(_answers(one=["a"]), 1, ["l1"]).share is None
    assert agreement(_answers(one=["a"]), 2, ["l1"]).share is None
    assert agreement(_answers(one=["a", "a"]), 2, ["l1"]).kappa == 1.0
