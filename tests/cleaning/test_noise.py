"""The noise of each level and the margin that follows from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cleaning.noise import (
    COUNTED_QUIET,
    ENOUGH_GOLD,
    LOWEST_MARGIN,
    QUIET,
    TWINS_HIGHEST_MARGIN,
    Counted,
    counted_by_pairs,
    estimate_noise,
    margin_for,
    noise_by_level,
)
from tasks.cleaning.relabel import clean
from tests.cleaning.test_relabel import TREE, judged


def test_the_margin_grows_as_the_noise_shrinks() -> None:
    margins = [margin_for(noise) for noise in np.linspace(0, 0.5, 200)]
    assert np.all(np.diff([min(m, 1.0) for m in margins]) <= 1e-12)
    assert margins[0] == math.inf
    assert margins[-1] == LOWEST_MARGIN
    assert estimate_noise(np.full((3, 4), 0.25), np.zeros(3, int)) == 0


def test_each_level_has_its_own_noise_and_only_the_noisy_one_is_touched() -> None:
    """Leaves are confused within their branch: the branch's labels are left alone, the leaves' get better."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 3000)
    y = np.where(rng.random(3000) < 0.2, true ^ 1, true)  # 0 with 1 and 2 with 3, each pair one branch
    P = 0.8 * np.eye(4)[true] + 0.05
    P[: len(P) // 50] = P[: len(P) // 50][:, ::-1]  # a few times the student is wrong about the branch
    P = P.astype(np.float32)
    noise = noise_by_level(y, P, TREE)
    assert noise["l1"].share <= QUIET < noise["l2"].share
    assert (noise["l1"].margin, noise["l2"].margin) == (math.inf, LOWEST_MARGIN)
    assert {level.source for level in noise.values()} == {"out_of_fold"}
    result = clean(y, P, P, TREE)
    assert result.by_level["l1"].overwritten == 0
    assert result.by_level["l2"].overwritten > 400
    assert (result.labels != true).mean() < 0.1 * (y != true).mean()
    together = clean(y, P, P, TREE, margin=LOWEST_MARGIN)
    assert together.by_level["l1"].overwritten > 0


def test_errors_counted_on_gold_outrank_what_is_estimated() -> None:
    _, y, P, _ = judged(2000, 0.2)
    few, enough = Counted(0, ENOUGH_GOLD - 1), Counted(30, ENOUGH_GOLD)
    assert noise_by_level(y, P, TREE, [few, few])["l2"].source == "out_of_fold"
    told = noise_by_level(y, P, TREE, [Counted(0, ENOUGH_GOLD), enough])
    assert (told["l1"].source, told["l1"].margin) == ("gold", math.inf)
    assert (told["l2"].share, told["l2"].margin) == (0.3, LOWEST_MARGIN)
    assert not clean(y, P, P, TREE, gold=[Counted(0, ENOUGH_GOLD)] * 2).overwritten.any()


def test_passes_that_differ_show_noise_that_out_of_fold_evidence_misses() -> None:
    """Both lean low, so the lower margin holds; passes that hardly ever differ leave all labels alone."""
    true, _, P, _ = judged(2000, 0.0)
    quiet = P * 0.5 + 0.5 * np.eye(4)[true].astype(np.float32)
    assert noise_by_level(true, quiet, TREE)["l2"].margin == math.inf
    assert noise_by_level(true, quiet, TREE, passes=[Counted(50, 1000)] * 2)["l2"].source == "passes"
    _, y, P, _ = judged(2000, 0.3)
    assert noise_by_level(y, P, TREE, passes=[Counted(100, 1000)] * 2)["l2"].source == "out_of_fold"
    hardly = [Counted(0, 1000), Counted(COUNTED_QUIET * 1000, 1000)]
    alike = noise_by_level(y, P, TREE, passes=hardly)
    assert {level.margin for level in alike.values()} == {math.inf}


def test_an_upper_level_is_judged_by_how_sure_the_student_is_there() -> None:
    """The same estimate gives a lower margin where the student doubts less; at the deepest level nothing changes."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 4000)
    y = np.where(rng.random(4000) < 0.06, 3 - true, true)  # to a leaf of the other branch
    sure = (0.8 * np.eye(4)[true] + 0.2 * np.eye(4)[true ^ 1]).astype(np.float32)
    unsure = (0.8 * np.eye(4)[true] + 0.05).astype(np.float32)
    easy, hard = noise_by_level(y, sure, TREE), noise_by_level(y, unsure, TREE)
    assert easy["l1"].share == pytest.approx(hard["l1"].share, abs=0.005)
    assert easy["l1"].margin == LOWEST_MARGIN < hard["l1"].margin
    assert easy["l2"].margin == pytest.approx(margin_for(easy["l2"].share))


def test_twins_that_differ_let_a_doubtful_estimate_be_believed() -> None:
    """The same estimate counts for little where twins agree, for more where they differ oftener than by chance."""
    _, y, P, _ = judged(4000, 0.04)
    pairs = np.stack([y[:400], y[:400]], axis=1)
    differing = pairs.copy()
    differing[:20, 1] = (differing[:20, 0] + 1) % 4
    alone, alike = noise_by_level(y, P, TREE)["l2"], noise_by_level(y, P, TREE, twins=pairs)["l2"]
    noisy = noise_by_level(y, P, TREE, twins=differing)["l2"]
    assert alone == alike
    assert alone.source == "out_of_fold"
    assert QUIET < alone.share == noisy.share
    assert noisy.source == "twins"
    assert LOWEST_MARGIN <= noisy.margin <= TWINS_HIGHEST_MARGIN < alone.margin
    by_chance = pairs[:100].copy()
    by_chance[:2, 1] = (by_chance[:2, 0] + 1) % 4
    assert noise_by_level(y, P, TREE, twins=by_chance)["l2"].source == "out_of_fold"
    _, clean_y, clean_P, _ = judged(4000, 0.0)
    quiet = noise_by_level(clean_y, clean_P * 0.5 + 0.5 * np.eye(4)[clean_y], TREE, twins=differing)["l2"]
    assert quiet.margin == math.inf, "where the student contradicts nothing there is nothing to believe"
    assert noise_by_level(y, P, TREE, twins=pairs[:0])["l2"] == alone


@settings(deadline=None)
@given(st.integers(0, 200), st.floats(0.02, 0.4))
def test_passes_that_err_independently_are_counted_right(seed: int, rate: float) -> None:
    """Two passes, errors never alike: what is counted is the rate of one; at upper levels less, never more."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 4, 4000)
    first = np.where(rng.random(4000) < rate, (true + 1) % 4, true)
    second = np.where(rng.random(4000) < rate, (true + 2) % 4, true)
    upper, leaf = counted_by_pairs(np.stack([first, second], axis=1), TREE)
    assert leaf.share == pytest.approx(rate, abs=0.03)
    assert upper.share <= leaf.share
    assert leaf.items == upper.items == 4000
    assert [counted.share for counted in counted_by_pairs(np.empty((0, 2), int), TREE)] == [0, 0]
