"""What passes amount to, and that labels only follow when something changed."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling.agreement import agreement
from tasks.labeling.consensus import item_states, new_label_rows
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


def test_where_passes_differ_below_the_levels_above_are_kept() -> None:
    """The deepest path that more than half agree on; a leaf is never such a path, whatever else is below it."""
    answers = _answers(
        below=["x > y > a", "x > y > b"],
        above=["x > y > a", "x > z > a"],
        apart=["x > y > a", "w > y > a"],
        short=["x > q", "x > y > a"],
        flat=["p", "q"],
        dead=["x > y > a", None],
    )
    assert _states(answers, 2) == {
        "below": ("partial", "x > y"),
        "above": ("partial", "x"),
        "apart": ("disagreed", None),
        "short": ("partial", "x"),
        "flat": ("disagreed", None),
        "dead": ("invalid", None),
    }
    three = _answers(
        most=["x > y > a", "x > y > b", "w > y > c"], none=["x > y > a", "w > y > b", "v > y > c"]
    )
    assert _states(three, 3) == {"most": ("partial", "x > y"), "none": ("disagreed", None)}


def test_the_last_vote_counts_only_where_passes_differ() -> None:
    answers = _answers(
        first=["a", "b", "a"],
        second=["a", "b", "b"],
        neither=["x > a", "x > b", "w > c"],
        same=["a", "a", "b"],
        dead=["a", None, "a"],
        refused=["x > a", "x > b", None],
        missing=["a", "b"],
    )
    found = {key.decode(): (state, label) for key, state, label in item_states(answers, 2, True).iter_rows()}
    assert found == {
        "first": ("consensus", "a"),
        "second": ("consensus", "b"),
        "neither": ("partial", "x"),
        "same": ("consensus", "a"),
        "dead": ("invalid", None),
        "refused": ("partial", "x"),
        "missing": ("disagreed", None),
    }
    assert _states(answers, 2)["first"] == ("disagreed", None)


def test_of_many_passes_the_last_vote_makes_one_label_the_most_frequent_or_none() -> None:
    answers = _answers(
        three=["a", "b", "c", "a"],
        four=["a", "b", "c", "d"],
        still=["a", "a", "b", "b", "c"],
        dissent=["a", "a", "b", "c", "d"],
        pair=["a", "a", "b", "c", "b"],
        made=["a", "a", "b", "c", "a"],
    )
    states = {
        key.decode(): label
        for passes in (3, 4)
        for key, state, label in item_states(
            answers.join(
                answers.group_by("key").len().filter(pl.col("len") == passes + 1), on="key", how="semi"
            ),
            passes,
            True,
        ).iter_rows()
    }
    assert states == {"three": "a", "four": None, "still": None, "dissent": None, "pair": None, "made": "a"}


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


def test_a_partial_label_withdraws_and_is_superseded_like_any_other() -> None:
    raw = pl.DataFrame(schema=RAW)
    said: list[list[str | None]] = [["x > a"], ["x > a", "x > b"], ["x > a", "x > b", "x > b"]]
    for answers, wanted in zip(
        said, [("x > a", "single"), ("x", "partial"), ("x > b", "consensus")], strict=True
    ):
        states = item_states(_answers(item=answers), 2, True)
        rows = new_label_rows(states, raw)
        assert rows == [(b"item", *wanted)]
        raw = _appended(raw, rows)
        assert new_label_rows(states, raw) == []
        assert resolve(raw)["label"].item() == (None if wanted[1] == "partial" else wanted[0])


def test_a_human_label_neither_counts_as_the_llms_nor_is_outranked() -> None:
    raw = pl.DataFrame([(0, b"item", "b", "human")], schema=RAW, orient="row")
    rows = new_label_rows(item_states(_answers(item=["a", "a"]), 2), raw)
    assert rows == [(b"item", "a", "consensus")]
    assert resolve(_appended(raw, rows)).row(0) == (b"item", "b", "human")


_said = st.dictionaries(
    st.binary(min_size=1, max_size=1),
    st.lists(st.sampled_from(["a", "b", "x > a", "x > y > a", "x > y > b", None]), min_size=1, max_size=4),
)


@given(_said, st.integers(1, 3), st.booleans())
def test_resolving_twice_appends_nothing_the_second_time(
    said: dict[bytes, list[str | None]], passes: int, tie_break: bool
) -> None:
    rows = [(key, number, label) for key, labels in said.items() for number, label in enumerate(labels, 1)]
    states = item_states(pl.DataFrame(rows, schema=ANSWERS, orient="row"), passes, tie_break)
    raw = pl.DataFrame(schema=RAW)
    raw = _appended(raw, new_label_rows(states, raw))
    assert new_label_rows(states, raw) == []


@given(_said, st.integers(1, 3), st.booleans())
def test_every_answered_item_has_one_state_and_a_label_only_where_it_should(
    said: dict[bytes, list[str | None]], passes: int, tie_break: bool
) -> None:
    """A label was said by a pass that counts; a partial one is above labels that were said, and none itself."""
    rows = [(key, number, label) for key, labels in said.items() for number, label in enumerate(labels, 1)]
    states = item_states(pl.DataFrame(rows, schema=ANSWERS, orient="row"), passes, tie_break)
    assert sorted(states["key"]) == sorted(said)
    for key, state, label in states.iter_rows():
        counted = [one for one in said[key][: passes + tie_break] if one is not None]
        assert (label is not None) == (state in ("consensus", "single", "partial"))
        if state == "partial":
            assert label not in counted
            assert 2 * sum(one.startswith(f"{label} > ") for one in counted) > len(counted)
        elif label is not None:
            assert label in counted
        if state in ("partial", "disagreed"):
            assert len(set(counted)) > 1
            assert len(said[key]) >= passes


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


def test_many_answers_amount_to_what_each_of_them_does() -> None:
    """They are looked at some thousand at a time, all about one item together."""
    labels = ["x > a", "x > b", "y > c", "x > a", "x > a"]
    rows = [
        (number.to_bytes(4, "big"), one, labels[(number * one + number // 7) % 5])
        for number in range(25_000)
        for one in (1, 2)
    ]
    answers = pl.DataFrame(rows, schema=ANSWERS, orient="row")
    states = item_states(answers, 2)
    assert states.height == states["key"].n_unique() == 25_000
    found = dict(states.select("key", pl.struct("state", "label")).iter_rows())
    said: dict[bytes, list[str]] = {}
    for key, _, label in rows:
        said.setdefault(key, []).append(label)
    same = [one for one in said.values() if one[0] == one[1]]
    for key, (first, second) in said.items():
        upper = first[0] if first[0] == second[0] else None
        wanted = ("consensus", first) if first == second else ("partial" if upper else "disagreed", upper)
        assert found[key] == dict(zip(("state", "label"), wanted, strict=True))
    measured = agreement(answers, 2, ["l1", "l2"])
    assert (measured.items, measured.share) == (25_000, len(same) / 25_000)
    for label in set(labels):
        mentions = sum(label in one for one in said.values())
        assert measured.by_label[label] == pytest.approx(sum(one[0] == label for one in same) / mentions)


def test_nothing_to_compare_gives_no_numbers() -> None:
    assert agreement(_answers(), 2, ["l1"]).share is None
    assert agreement(_answers(one=["a"]), 1, ["l1"]).share is None
    assert agreement(_answers(one=["a"]), 2, ["l1"]).share is None
    assert agreement(_answers(one=["a", "a"]), 2, ["l1"]).kappa == 1.0
