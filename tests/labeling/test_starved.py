"""Which labels are starved and how many examples may be written for each."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling.starved import reference_rows, starved_labels
from tasks.records import text_key
from tasks.synthetic import SYNTHETIC, UNSEEN_EXAMPLES, most_synthetic
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, taxonomy

SHARES = st.floats(0.01, 0.99)


@given(st.integers(1, 500), SHARES)
def test_the_share_holds_and_one_more_would_break_it(real: int, most_share: float) -> None:
    most = most_synthetic(real, most_share)
    assert most / (most + real) <= most_share + 1e-9
    assert (most + 1) / (most + 1 + real) > most_share - 1e-9


def test_a_share_that_can_be_kept_exactly_is() -> None:
    """Three quarters of twelve are nine: rounding takes none of them away."""
    assert [most_synthetic(3, share) for share in (0.25, 0.5, 0.75, 0.9)] == [1, 3, 9, 27]


def test_a_label_never_seen_gets_a_few_that_give_way_to_the_first_real_one() -> None:
    assert most_synthetic(0, 0.5) == UNSEEN_EXAMPLES == 5
    assert most_synthetic(1, 0.5) == 1


@given(
    st.dictionaries(st.sampled_from(taxonomy().leaves), st.integers(0, 40)),
    st.dictionaries(st.sampled_from(taxonomy().leaves), st.integers(0, 40)),
    st.integers(1, 30),
    SHARES,
)
def test_what_is_wanted_reaches_the_mark_or_the_share(
    real: dict[str, int], written: dict[str, int], below: int, most_share: float
) -> None:
    """Never beyond either; never for "none of these", nor for a label with enough; the most starved first."""
    found = starved_labels(taxonomy(), real, written, below, most_share)
    assert {label.label for label in found} == {
        leaf for leaf in taxonomy().leaves if real.get(leaf, 0) < below and leaf != taxonomy().other
    }
    assert [label.real for label in found] == sorted(label.real for label in found)
    for label in found:
        most = most_synthetic(label.real, most_share)
        assert 0 <= label.wanted <= label.room <= most
        if label.wanted:
            assert label.synthetic + label.wanted == min(below - label.real, most)


def test_a_second_look_wants_only_what_is_missing() -> None:
    real, below = {KETTLES: 4, KNIVES: 30, HOSES: 9}, 10
    first = {label.label: label.wanted for label in starved_labels(taxonomy(), real, {}, below, 0.5)}
    assert (first[KETTLES], first[HOSES], first.get(KNIVES)) == (4, 1, None)
    again = starved_labels(taxonomy(), real, {KETTLES: 3, HOSES: 1}, below, 0.5)
    assert {label.label: label.wanted for label in again}[KETTLES] == 1
    assert {label.label: label.wanted for label in again}[HOSES] == 0


def test_an_example_is_compared_with_all_that_is_judged_or_learned_from() -> None:
    """Real rows with their label; gold, held-back and disputed ones, and every synthetic item, without one."""
    names = ["real", "disputed", "audited", "written", "unlabelled"]
    origins = ["source", "source", "traffic", SYNTHETIC, "source"]
    contents = pl.DataFrame(
        {"key": [text_key(name) for name in names], "text": names, "origin": origins},
        schema={"key": pl.Binary, "text": pl.String, "origin": pl.String},
    )
    real = contents.filter(pl.col("text") == "real").select("key", label=pl.lit(KETTLES))
    others = contents.filter(pl.col("text").is_in(["real", "disputed", "audited"])).select("key")
    gold = pl.DataFrame(
        {"key": [text_key("gold")], "text": ["gold"]}, schema={"key": pl.Binary, "text": pl.String}
    )
    rows = reference_rows(real, others, contents, gold)
    assert dict(rows.select("text", "label").iter_rows()) == {
        "real": KETTLES, "disputed": None, "audited": None, "written": None, "gold": None,
    }  # fmt: skip
