"""Synthetic rows teach within their share, judge nothing and give nothing away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import text_key
from tasks.student.calibration import apply_temperature, log_loss
from tasks.student.certifying import path_as_dict
from tasks.student.crossfit import fold_of, never_judged, splits
from tasks.student.ensemble import EnsembleHead
from tasks.student.heads import Head
from tasks.student.linear import LinearHead
from tasks.student.mlp import MlpHead
from tasks.student.neighbours import cross_fitted_votes
from tasks.student.package import decode_answers
from tasks.student.retrain import Trained, retrain
from tasks.student.snapshot import SYNTHETIC_WEIGHT, UNSURE_WEIGHT, training_rows, weighted
from tasks.student.synthetic import folds_beside, within_share
from tasks.student.thresholds import fix_path
from tasks.student.training import Rows
from tasks.synthetic import SYNTHETIC, most_synthetic
from tests.student.test_retrain import ENCODER, TAXONOMY, gold_of
from tests.student.test_snapshot import KEYS, NAMES, NOBODY, contents, labels

Clusters = tuple[np.ndarray, np.ndarray]

WRITTEN = ["a jug with a switch that boils", "kettle of copper, whistles", "teapot warmer by candle light"]


def with_written(
    written: dict[str, str], gold: list[str] | None = None, held: list[str] | None = None, **other: Any
) -> pl.DataFrame:
    """The training view of the six named items and of what was written: text to its label."""
    synthetic = pl.DataFrame(
        {
            "key": [text_key(text) for text in written],
            "label": list(written.values()),
            "source": [SYNTHETIC] * len(written),
        },
        schema={"key": pl.Binary, "label": pl.String, "source": pl.String},
    )
    every = weighted(pl.concat([labels(), synthetic]), NOBODY)
    # Written before the items came: their place in the table must not matter.
    known = contents([*written, *NAMES, *(held or [])])
    held_back = contents(held or []).select("key")
    return training_rows(every, known, contents(gold or []), held_back, "text", **other).frame


def texts_of(frame: pl.DataFrame, *names: str) -> list[str]:
    by_key = {text_key(name): name for name in (*NAMES, *names)}
    return [by_key[key] for key in frame["key"]]


def test_synthetic_rows_stand_last_with_a_modest_weight() -> None:
    """No more than any real row has, in groups of their own, and the groups of real rows stay as they are."""
    without = with_written({})
    rows = with_written({WRITTEN[0]: "Kettles"})
    assert rows.head(without.height).equals(without)
    (row,) = rows.tail(rows.height - without.height).rows(named=True)
    assert (row["label"], row["source"], row["weight"]) == ("Kettles", SYNTHETIC, SYNTHETIC_WEIGHT)
    assert row["group"] == row["key"] == text_key(WRITTEN[0])
    assert 0 < SYNTHETIC_WEIGHT <= UNSURE_WEIGHT < 1


def test_the_share_is_kept_in_training_too() -> None:
    """One real kettle allows one example at a half and three at three quarters, the oldest first."""
    written = dict.fromkeys(WRITTEN, "Kettles")
    assert texts_of(with_written(written), *WRITTEN)[6:] == WRITTEN[:1]
    assert texts_of(with_written(written, most_synthetic=0.75), *WRITTEN)[6:] == WRITTEN
    assert texts_of(with_written(written, most_synthetic=0.25), *WRITTEN)[6:] == []


def test_a_real_item_that_is_no_longer_used_takes_its_share_along() -> None:
    """Without the real kettle (it is gold now) the label is one never seen; with two, two examples count."""
    written = dict.fromkeys(WRITTEN, "Kettles")
    assert len(texts_of(with_written(written, gold=[NAMES[0]]), *WRITTEN)) == 5 + 3


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 12)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 30)),
    st.floats(0.05, 0.95),
)
def test_no_label_has_more_than_its_share(
    real: dict[str, int], written: dict[str, int], most_share: float
) -> None:
    """And none fewer than it may have."""

    def rows(counts: dict[str, int]) -> pl.DataFrame:
        named = [(label, place) for label, count in counts.items() for place in range(count)]
        return pl.DataFrame(named, schema={"label": pl.String, "place": pl.Int64}, orient="row")

    kept = within_share(rows(written), rows(real), most_share)
    for label, count in written.items():
        most = most_synthetic(real.get(label, 0), most_share)
        assert kept.filter(pl.col("label") == label)["place"].to_list() == list(range(min(count, most)))


@pytest.mark.parametrize("where", ["gold", "held"])
def test_what_resembles_a_judge_is_not_learned_from(where: str) -> None:
    """Gold or an audit in its window that came, or nearly came, after the example was written: it goes."""
    written = {WRITTEN[0]: "Kettles", WRITTEN[1]: "Knives"}
    judges = [WRITTEN[0].upper() + "!", WRITTEN[1]]
    rows = with_written(written, **{where: judges})
    assert texts_of(rows, *WRITTEN)[6:] == []


def test_what_resembles_a_real_item_gives_way_to_it() -> None:
    """A nearly equal item that came after the example was written, even one with another label: the example goes."""
    rows = with_written({NAMES[0] + "s": "Kettles", NAMES[1] + "s": "Hoses"})
    assert texts_of(rows) == NAMES


def test_images_have_no_synthetic_rows() -> None:
    every = weighted(
        pl.concat([labels(), labels(SYNTHETIC, ["written"]).with_columns(label=pl.lit("Kettles"))]), NOBODY
    )
    rows = training_rows(every, contents([*NAMES, "written"]), contents([]), KEYS, "image").frame
    assert SYNTHETIC not in rows["source"]


def test_an_example_goes_with_the_nearest_real_row_of_its_label() -> None:
    """Not with a nearer one of another label; where its label has none, it keeps a fold of its own."""
    vectors = np.array([[1, 0], [0, 1], [0.8, 0.6], [0.7, 0.7], [0.6, 0.8]], np.float32)
    leaves = np.array([0, 0, 1, 0, 2])
    folds = np.array([3, 4, 2, 0, 1], np.int16)
    written = np.array([False, False, False, True, True])
    vectors[3] = [0.5, 0.87]
    assert folds_beside(vectors, leaves, folds, written).tolist() == [3, 4, 2, -5, -2]


@given(st.lists(st.integers(0, 4), min_size=8, max_size=40), st.integers(0, 2**32 - 1))
def test_no_fold_judges_a_synthetic_row_or_learns_what_was_written_beside_it(
    drawn: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    folds, written = np.array(drawn, np.int16), rng.random(len(drawn)) < 0.4
    written[:3] = False
    folds[:3] = [0, 1, 2]
    marked = np.where(written, never_judged(folds), folds)
    for train, held_out in splits(np.zeros(len(folds), np.int64), marked):
        fold = folds[held_out[0]]
        assert not written[held_out].any()
        assert set(train) == set(np.flatnonzero(folds != fold))


def twinned(clusters: Clusters) -> tuple[np.ndarray, ...]:
    """200 rows with their folds, and the same with a synthetic twin of every row of fold 0: X, y, folds, each twice."""
    X, y = clusters[0][:200], clusters[1][:200]
    folds = fold_of([text_key(f"{n}") for n in range(200)], 4, 0)
    twins = np.flatnonzero(folds == 0)
    both = np.concatenate([X, X[twins]]), np.concatenate([y, y[twins]])
    return X, y, folds, *both, np.concatenate([folds, never_judged(folds[twins])])


@pytest.mark.parametrize("make", [lambda: LinearHead(3.0), lambda: MlpHead(3)], ids=["linear", "mlp"])
def test_a_twin_of_a_row_does_not_help_to_judge_it(make: Any, clusters: Clusters) -> None:
    """Out of fold the rows of fold 0 are judged as if nobody had written their twins; the others learn from them."""
    X, y, folds, X2, y2, folds2 = twinned(clusters)
    judged = []
    for rows in ((X, y, folds), (X2, y2, folds2)):
        head: Head = make()
        P = head.tune(*rows, n_leaves=6, seed=0)
        temperature = float(head.settings()["temperature"])
        judged.append(apply_temperature(P, 1 / temperature))
    alone, beside = judged
    mine = folds == 0
    np.testing.assert_allclose(alone[mine], beside[:200][mine], atol=1e-5)
    assert np.abs(alone - beside[:200])[~mine].max() > 0.01
    np.testing.assert_allclose(beside[200:], 1 / 6, atol=1e-6)


def test_neighbours_do_not_vote_for_what_they_were_written_beside(clusters: Clusters) -> None:
    X, y, folds, X2, y2, folds2 = twinned(clusters)
    alone = cross_fitted_votes(X, y, folds, 6)
    beside = cross_fitted_votes(X2, y2, folds2, 6)
    mine = folds == 0
    np.testing.assert_allclose(alone[mine], beside[:200][mine], atol=1e-5)
    assert np.abs(alone - beside[:200])[~mine].max() > 0.01


def test_an_ensemble_weighs_its_parts_by_real_rows_only(clusters: Clusters) -> None:
    """However many synthetic rows lie beside, a uniform answer about them moves no share and no temperature."""
    X, y, folds, _, _, _ = twinned(clusters)
    far = np.zeros((150, X.shape[1]), np.float32)
    far[:, 0] = -1.0
    head, other = EnsembleHead(3.0), EnsembleHead(3.0)
    head.tune(X, y, folds, n_leaves=6, seed=0)
    weight = np.concatenate([np.ones(200), np.full(150, 1e-6)]).astype(np.float32)
    marked = np.concatenate([folds, never_judged(np.zeros(150, np.int16))])
    other.tune(
        np.concatenate([X, far]),
        np.concatenate([y, np.zeros(150, np.int64)]),
        marked,
        weight,
        n_leaves=6,
        seed=0,
    )
    assert other.share == pytest.approx(head.share, abs=0.02)
    assert other.temperature == pytest.approx(head.temperature, rel=0.05)


def rows_with(X: np.ndarray, y: np.ndarray, written_X: np.ndarray, written_y: np.ndarray) -> Rows:
    n, m = len(y), len(written_y)
    vectors = np.concatenate([X, written_X]).astype(np.float32)
    leaves = np.concatenate([y, written_y]).astype(np.int64)
    written = np.arange(n + m) >= n
    folds = fold_of([text_key(f"item {i}") for i in range(n + m)], 5, 0)
    return Rows(
        vectors,
        leaves,
        np.where(written, -1, leaves),
        folds_beside(vectors, leaves, folds, written),
        np.where(written, SYNTHETIC_WEIGHT, 1.0).astype(np.float32),
    )


def trained(rows: Rows, X: np.ndarray, y: np.ndarray) -> Trained:
    return retrain(rows, ["linear"], TAXONOMY, ENCODER, "text", gold_of(y), (X, None))


def test_a_label_known_from_examples_only_is_learned_and_never_measured(clusters: Clusters) -> None:
    """The student tells it apart on gold; held-out numbers, thresholds and losses are of the real rows alone."""
    X, y = clusters
    real = y[:400] != 4
    copies = np.flatnonzero(y == 4)[:5]
    rows = rows_with(X[:400][real], y[:400][real], X[copies], y[copies])
    told = trained(rows, X[400:], y[400:])
    assert len(told.held_out.truth) == int(real.sum())
    assert TAXONOMY.leaves[4] not in set(told.held_out.truth)
    assert told.gold is not None
    of_it = told.gold.P[:, 4]
    assert of_it[y[400:] == 4].mean() > 2 * of_it[y[400:] != 4].mean() > 0
    [linear] = told.candidates
    n = int(real.sum())
    assert linear.loss == pytest.approx(log_loss(linear.out_of_fold[:n], rows.labels[:n]), rel=1e-5)
    assert len(linear.out_of_fold) == n + 5
    without = trained(rows_with(X[:400][real], y[:400][real], X[:0], y[:0]), X[400:], y[400:])
    assert without.gold is not None
    assert (without.gold.P[:, 4] == 0).all()


def test_labels_of_synthetic_rows_never_enter_a_number(clusters: Clusters) -> None:
    """Twenty nonsense examples among 400 rows change what is learned; they are not among what is judged."""
    X, y = clusters
    rows = rows_with(X[:300], y[:300], X[300:320], (y[300:320] + 3) % 6)
    told = trained(rows, X[:0], y[:0])
    assert (told.judged_on, len(told.held_out.truth)) == ("heldout", 300)
    assert told.held_out.truth == [TAXONOMY.leaves[leaf] for leaf in y[:300]]
    assert told.winner_scores[-1].items == 300
    [linear] = told.candidates
    of_real = apply_temperature(linear.out_of_fold[:300], told.student.temperature)
    answers = decode_answers(of_real, TAXONOMY, told.student.levels)
    never = np.array([label == TAXONOMY.other for label in answers.labels], bool)
    assert path_as_dict(replace(told.path, upper=None)) == path_as_dict(fix_path(answers.confidences, never))


def test_the_comparison_before_cleaning_learns_from_the_same_examples(clusters: Clusters) -> None:
    """Nothing cleaned: no second training; where something was, both students have seen the synthetic rows."""
    X, y = clusters
    copies = np.flatnonzero(y == 4)[:5]
    keep = y[:400] != 4
    rows = rows_with(X[:400][keep], y[:400][keep], X[copies], y[copies])
    assert "raw labels" not in trained(rows, X[400:], y[400:]).scores
    settled = rows.settled()
    assert settled.labels[-5:].tolist() == [4] * 5
    assert settled.weight[-5:].tolist() == [pytest.approx(SYNTHETIC_WEIGHT)] * 5
    assert (settled.raw_labels[-5:] == -1).all()
    cleaned = rows.labels.copy()
    cleaned[:30] = (cleaned[:30] + 1) % 4
    assert "raw labels" in trained(replace(rows, labels=cleaned), X[400:], y[400:]).scores
