from pathlib import Path

import numpy as np
import pytest

from tasks.errors import InputError, TrainingError
from tasks.student.calibration import log_loss
from tasks.student.crossfit import cross_fitted_probabilities
from tasks.student.ensemble import EnsembleHead, mixture_share
from tasks.student.heads import HEAD_FILE, Head, load_head, make_head
from tasks.student.linear import LinearHead
from tasks.student.selection import choose, out_of_fold_losses

KINDS = ["linear", "mlp", "ensemble", "lda"]
Clusters = tuple[np.ndarray, np.ndarray]


@pytest.fixture(params=KINDS)
def head(request: pytest.FixtureRequest) -> Head:
    return make_head(request.param)


def test_a_tuned_head_learns_and_survives_saving(head: Head, clusters: Clusters, tmp_path: Path) -> None:
    """Better than chance by far, distributions in every row, and to the last bit the same after loading."""
    X, y = clusters
    oof = head.tune(X[:400], y[:400], np.arange(400) % 4, n_leaves=9, seed=0)
    assert (oof.argmax(axis=1) == y[:400]).mean() > 0.8
    head.fit(X[:400], y[:400], n_leaves=9, seed=0)
    P = head.predict_proba(X[400:])
    assert (P.argmax(axis=1) == y[400:]).mean() > 0.8
    assert P.dtype == np.float32
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-5)
    assert np.all(P[:, 6:] == 0), "leaves that training never saw"
    head.save(tmp_path)
    assert np.array_equal(load_head(tmp_path).predict_proba(X[400:]), P)
    assert sorted(p.suffix for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        [".json", ".safetensors"] * (2 if head.kind == "ensemble" else 1)
    )


def test_the_same_seed_gives_the_same_head(head: Head, clusters: Clusters) -> None:
    X, y = clusters[0][:200], clusters[1][:200]
    first = make_head(head.kind).fit(X, y, n_leaves=6, seed=3).predict_proba(X)
    assert np.array_equal(first, make_head(head.kind).fit(X, y, n_leaves=6, seed=3).predict_proba(X))


@pytest.mark.parametrize("labels", [[0], [2, 2, 2], [0, 1], [0, 0, 0, 0, 1], [3, 1, 0]])
def test_tiny_and_lopsided_data_work(head: Head, labels: list[int]) -> None:
    """One row, one label, a label with one example, fewer rows than folds."""
    X = np.eye(len(labels), 4, dtype=np.float32)
    P = head.fit(X, np.array(labels), n_leaves=5, seed=0).predict_proba(X)
    assert np.isfinite(P).all()
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-5)
    assert np.all(P[:, np.setdiff1d(np.arange(5), labels)] == 0)


def test_weightless_rows_do_not_count(clusters: Clusters) -> None:
    """A row of weight 0 is as good as absent."""
    X, y = clusters
    wrong = np.concatenate([y[:300], (y[:300] + 1) % 6])
    weight = np.concatenate([np.ones(300), np.zeros(300)])
    doubled = LinearHead(3.0).fit(np.tile(X[:300], (2, 1)), wrong, weight, n_leaves=6, seed=0)
    plain = LinearHead(3.0).fit(X[:300], y[:300], n_leaves=6, seed=0)
    np.testing.assert_allclose(doubled.predict_proba(X[300:]), plain.predict_proba(X[300:]), atol=5e-3)


def test_linear_agrees_with_scikit_learn(clusters: Clusters) -> None:
    """The strength means what C means there."""
    from sklearn.linear_model import LogisticRegression

    X, y = clusters
    theirs = LogisticRegression(C=5.0, max_iter=1000).fit(X[:400], y[:400]).predict_proba(X[400:])
    ours = LinearHead(5.0).fit(X[:400], y[:400], n_leaves=6, seed=0).predict_proba(X[400:])
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


def test_what_cannot_be_learned_from_is_refused_with_the_reason(head: Head) -> None:
    X, y = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    broken = X.copy()
    broken[2, 1] = np.nan
    cases = [
        (broken, y, None, "row 2"),
        (X, np.array([0, 1, 2, 9]), None, "3 leaves"),
        (X[:0], y[:0], None, "no labelled row"),
        (X, y, np.zeros(4), "all zero"),
        (X, y[:3], None, "shapes"),
    ]
    for vectors, labels, weight, reason in cases:
        with pytest.raises(TrainingError, match=reason):
            make_head(head.kind).fit(vectors, labels, weight, n_leaves=3, seed=0)
    with pytest.raises(TrainingError, match="one fold"):
        make_head(head.kind).tune(X, y, np.zeros(4, int), n_leaves=3, seed=0)


def test_unknown_and_damaged_heads_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="ensemble"):
        make_head("forest")
    with pytest.raises(InputError, match=r"head\.json"):
        load_head(tmp_path)
    (tmp_path / HEAD_FILE).write_text('{"kind": "forest"}')
    with pytest.raises(InputError, match="forest"):
        load_head(tmp_path)


def test_neighbours_get_no_weight_where_they_do_not_help() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    good = np.full((200, 3), 0.05, np.float32)
    good[np.arange(200), y] = 0.9
    noise = rng.dirichlet(np.ones(3), 200).astype(np.float32)
    assert mixture_share(good, noise, y) == 0
    assert mixture_share(noise, good, y) > 0.9
    grid = [log_loss((1 - w) * noise + w * good, y) for w in np.linspace(0, 1, 101)]
    assert abs(mixture_share(noise, good, y) - np.argmin(grid) / 100) < 0.05


def test_an_ensemble_beyond_its_bound_keeps_a_sample(clusters: Clusters) -> None:
    X, y = clusters
    head = EnsembleHead(3.0, 0.4, max_neighbours=50).fit(X, y, n_leaves=6, seed=0)
    assert head.reference.shape == (50, 16)
    assert (head.predict_proba(X).argmax(axis=1) == y).mean() > 0.8


def test_the_candidate_with_the_least_log_loss_is_chosen(clusters: Clusters) -> None:
    X, y = clusters
    P = cross_fitted_probabilities(lambda: LinearHead(5.0), X, y, np.arange(600) % 4, n_leaves=6, seed=0)
    sharp = np.eye(6, dtype=np.float32)[P.argmax(axis=1)]
    assert choose({"sharp": sharp, "honest": P}, y) == "honest", "equal accuracy, dishonest confidence"
    unlabelled = np.where(np.arange(600) < 300, y, -1)
    losses = out_of_fold_losses({"honest": P}, unlabelled)
    assert losses["honest"] == pytest.approx(log_loss(P[:300], y[:300]))
    with pytest.raises(TrainingError):
        choose({}, y)
    with pytest.raises(TrainingError):
        choose({"honest": P}, np.full(600, -1))
