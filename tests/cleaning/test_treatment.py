"""What becomes of contradicted labels in each mode, as arrays and as the frame that is written."""

from __future__ import annotations

from typing import get_args

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cleaning.cleaned_rows import cleaned_frame, to_ask_again, untouched_frame, with_second_answers
from tasks.cleaning.relabel import clean
from tasks.cleaning.treatment import Mode, treat, two_of_three
from tests.cleaning.test_relabel import TREE, judged

LEAVES = ("A > a", "A > b", "B > c", "B > d")
NOBODY = np.zeros(400, bool)
MODES: tuple[Mode, ...] = get_args(Mode)


def keys_of(n: int) -> pl.Series:
    return pl.Series([bytes([row // 256, row % 256]) for row in range(n)], dtype=pl.Binary)


def written(mode: Mode, cap: float = 0.3) -> tuple[np.ndarray, np.ndarray, pl.DataFrame]:
    """True and given leaves, and the frame that cleaning writes about them."""
    true, y, P, V = judged(400, 0.25)
    cleaning = clean(y, P, V, TREE, max_loss=cap, margin=0.3)
    frame = cleaned_frame(keys_of(400), cleaning, treat(y, cleaning, NOBODY, mode), NOBODY, LEAVES)
    return true, y, frame


def test_every_mode_treats_the_same_rows() -> None:
    """Relabelled, left out or shared: only what becomes of a row differs; untouched rows keep all their weight."""
    _, y, P, V = judged(400, 0.25)
    cleaning = clean(y, P, V, TREE, margin=0.3)
    relabelled, dropped, soft, asked = (treat(y, cleaning, NOBODY, mode) for mode in MODES)
    rows = relabelled.overwritten
    assert rows.sum() > 20
    assert np.array_equal(relabelled.labels, cleaning.labels)
    assert np.array_equal(dropped.share == 0, rows)
    assert np.array_equal(soft.rest >= 0, rows)
    assert np.all((soft.share[rows] < 0.5) & (soft.share[rows] >= 0))
    for other in (dropped, soft, asked):
        assert np.array_equal(other.labels, y)
        assert not other.overwritten.any()
        assert np.array_equal(other.suspects, relabelled.suspects | rows)
        assert np.all(other.share[~rows] == 1)


def test_disputed_rows_go_to_the_third_vote_in_every_mode() -> None:
    _, y, P, V = judged(400, 0.25)
    cleaning = clean(y, P, V, TREE, margin=0.3)
    for mode in MODES:
        treated = treat(y, cleaning, np.ones(400, bool), mode)
        assert np.array_equal(treated.labels, cleaning.labels), mode
        assert np.all(treated.share == 1), mode


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_two_of_three_decide(seed: int) -> None:
    """A change needs the second answer on the student's side; anything else keeps the label."""
    given_, favourite, again = np.random.default_rng(seed).integers(0, 4, (3, 50))
    favourite = np.where(favourite == given_, (given_ + 1) % 4, favourite)
    again = np.where(again == 3, -1, again)
    decided, agreed = two_of_three(given_, favourite, again)
    votes = np.stack([given_, favourite, again])
    assert np.array_equal(decided != given_, again == favourite)
    assert np.array_equal(agreed, ((votes == decided).sum(axis=0) >= 2))


def test_who_is_asked_again_does_not_change_with_the_answers() -> None:
    """The most contradicted come first, no more than the share; the same frame gives the same keys."""
    _, _, frame = written("re-ask")
    asked = to_ask_again(frame, 0.1)
    assert asked.height == 40
    gains = asked.join(frame, on="key", maintain_order="left")["gain"]
    assert gains.is_sorted(descending=True)
    rest = frame.filter(pl.col("gain") > 0).join(asked, on="key", how="anti")
    assert max(rest["gain"].to_list()) <= min(gains.to_list())
    assert to_ask_again(frame, 1.0).height == frame.filter(pl.col("gain") > 0).height
    assert to_ask_again(frame, 0.0).is_empty()
    assert to_ask_again(untouched_frame(frame), 1.0).is_empty()


def test_second_answers_mend_labels_that_the_teacher_takes_back() -> None:
    """A teacher that is right the second time: far fewer wrong labels, hardly a right one lost, none beyond the cap."""
    true, y, frame = written("re-ask")
    asked = to_ask_again(frame, 1.0)
    right = pl.DataFrame({"key": keys_of(400), "label": [LEAVES[leaf] for leaf in true.tolist()]})
    answers = right.join(asked, on="key", how="semi")
    done, counts = with_second_answers(frame, answers, LEAVES, max_loss=1.0)
    now = np.array([LEAVES.index(label) for label in done["label"]])
    assert (now != true).mean() < 0.3 * (y != true).mean()
    assert not np.any((now != true) & (y == true))
    assert counts["answers"] == asked.height == counts["kept"] + counts["changed"] + counts["undecided"]
    assert counts["changed"] == done["overwritten"].sum() == (now != y).sum()
    confirmed = done.filter(pl.col("again") == pl.col("label"))
    assert not confirmed["suspect"].any()
    capped, fewer = with_second_answers(frame, answers, LEAVES, max_loss=0.05)
    lost = np.array([LEAVES.index(label) for label in capped["label"]]) != y
    assert all(lost[y == leaf].sum() <= 0.05 * (y == leaf).sum() for leaf in range(4))
    assert fewer["undecided"] > counts["undecided"]
    assert capped.filter("suspect").height > done.filter("suspect").height


def test_answers_that_are_no_label_decide_nothing() -> None:
    _, _, frame = written("re-ask")
    asked = to_ask_again(frame, 1.0)
    nonsense = asked.with_columns(label=pl.Series([None, "Z > z"] * asked.height)[: asked.height])
    done, counts = with_second_answers(frame, nonsense, LEAVES, max_loss=1.0)
    assert counts == {"answers": asked.height, "kept": 0, "changed": 0, "undecided": asked.height}
    assert done["label"].equals(frame["label"])
    assert done.join(asked, on="key", how="semi")["suspect"].all()
