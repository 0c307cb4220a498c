"""The noise model errs at its rate, more on hard items, towards confusable labels, half of it in all passes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.demo import catalogue
from tasks.demo.noise import error_probabilities, noisy_passes, noisy_passes_from_features


def labelled() -> tuple[list[str], list[str]]:
    truth = catalogue.generate(seed=5, items=3000, gold=0, traffic=0, drifted_traffic=0).items_truth
    return truth["name"].to_list(), truth["label"].to_list()


def wrong(answers: list[str], labels: list[str]) -> np.ndarray:
    return np.array([a != b for a, b in zip(answers, labels, strict=True)])


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.25, 0.6])
def test_each_pass_is_wrong_at_the_rate(rate: float) -> None:
    texts, labels = labelled()
    for answers in noisy_passes(texts, labels, rate, passes=2, seed=1):
        assert wrong(answers, labels).mean() == pytest.approx(rate, abs=0.025)


def test_half_of_the_error_is_shared_with_the_same_wrong_label() -> None:
    texts, labels = labelled()
    first, second = noisy_passes(texts, labels, 0.2, passes=2, seed=2)
    both = wrong(first, labels) & wrong(second, labels)
    same = np.array([a == b for a, b in zip(first, second, strict=True)])
    assert 0.09 < (both & same).mean() < 0.15
    assert 0.05 < (~same).mean() < 0.22


def test_the_same_seed_gives_the_same_answers() -> None:
    texts, labels = labelled()
    assert noisy_passes(texts, labels, 0.2, 2, seed=3) == noisy_passes(texts, labels, 0.2, 2, seed=3)
    assert noisy_passes(texts, labels, 0.2, 2, seed=3) != noisy_passes(texts, labels, 0.2, 2, seed=4)


def test_items_between_two_labels_are_wrong_more_often_and_towards_the_near_one() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [1, 0], [12, 12]])
    truth = np.repeat([0, 1, 2], 400)
    features = centres[truth] + rng.normal(0, 0.45, (1200, 2))
    labels = [("a", "b", "far")[i] for i in truth]
    (answers,) = noisy_passes_from_features(features, labels, 0.2, passes=1, seed=0)
    errs = wrong(answers, labels)
    assert errs[truth < 2].mean() > 4 * errs[truth == 2].mean()
    of_a = [answer for answer, label in zip(answers, labels, strict=True) if label == "a" != answer]
    assert of_a.count("b") > 0.8 * len(of_a)


def test_named_neighbours_are_the_wrong_answers_given() -> None:
    texts, labels = labelled()
    target = max(set(labels), key=labels.count)
    (answers,) = noisy_passes(texts, labels, 0.5, 1, seed=0, label_neighbours={target: ["n1", "n2"]})
    given_instead = {a for a, b in zip(answers, labels, strict=True) if b == target != a}
    assert given_instead == {"n1", "n2"}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=12), st.sampled_from("abc")), max_size=12),
    st.floats(0, 1),
    st.integers(0, 3),
)
def test_answers_are_known_labels_whatever_the_texts(
    rows: list[tuple[str, str]], rate: float, passes: int
) -> None:
    texts, labels = [t for t, _ in rows], [x for _, x in rows]
    made = noisy_passes(texts, labels, rate, passes, seed=0)
    assert len(made) == passes
    assert all(len(answers) == len(labels) and set(answers) <= set(labels) for answers in made)
    assert noisy_passes(texts, labels, 0.0, 1) == [labels]


@given(st.floats(0, 1))
def test_error_probabilities_stay_probabilities_and_keep_the_mean(rate: float) -> None:
    hardness = ((np.arange(4000) + 0.5) / 4000).astype(np.float32)
    p = error_probabilities(hardness, rate)
    assert p.min() >= 0
    assert p.max() <= 1 + 1e-5
    assert p.mean() == pytest.approx(rate, abs=1e-3)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="1 items but 2 labels"):
        noisy_passes(["a"], ["x", "y"], 0.1)
    with pytest.raises(ValueError, match="error rate"):
        noisy_passes(["a", "b"], ["x", "y"], 1.5)
    with pytest.raises(ValueError, match="matrix"):
        noisy_passes_from_features(np.zeros(3), ["a", "b", "c"], 0.1)


def test_forty_thousand_rows_take_seconds() -> None:
    texts, labels = labelled()
    many = [f"{text} {i}" for i in range(14) for text in texts][:40_000]
    start = time.process_time()
    noisy_passes(many, (labels * 14)[:40_000], 0.15)
    assert time.process_time() - start < 30
