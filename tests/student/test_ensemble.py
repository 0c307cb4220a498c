from pathlib import Path

import numpy as np
import pytest

from tasks.errors import TrainingError
from tasks.student.calibration import log_loss
from tasks.student.ensemble import LEAST_SHARE, NEIGHBOURS, EnsembleHead, mixture_shares
from tasks.student.heads import load_head, make_head
from tasks.student.linear import LinearHead
from tasks.student.scoring import scorer_of

Clusters = tuple[np.ndarray, np.ndarray]


def test_shares_are_the_best_there_are_and_nothing_small_stays() -> None:
    """No point of a grid over three members loses less; a member that only guesses is left out."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    several = rng.dirichlet(np.ones(3), (3, 400))
    several[0, np.arange(400), y] += 0.6
    several[1, np.arange(200), y[:200]] += 3
    several[2] = 1e-6
    several /= several.sum(axis=2, keepdims=True)
    several[2, np.arange(400), y] = 1e-6
    given = several[:, np.arange(400), y]
    shares = mixture_shares(given)
    assert shares.sum() == pytest.approx(1)
    assert shares[2] == 0
    assert shares[:2].min() > LEAST_SHARE
    least = -np.log(shares @ given).mean()
    for a in np.linspace(0, 1, 21):
        for b in np.linspace(0, 1 - a, 21):
            assert least <= -np.log(np.array([1 - a - b, a, b]) @ given).mean() + 1e-4


def test_other_heads_join_by_their_share_and_come_back_from_disk(clusters: Clusters, tmp_path: Path) -> None:
    """It loses no more out of fold than its members, and predicts the same to the last bit after loading."""
    X, y = clusters
    folds = np.arange(400) % 4
    head = EnsembleHead(others=("mlp", "lda"))
    P = head.tune(X[:400], y[:400], folds, n_leaves=6, seed=0)
    alone = LinearHead().tune(X[:400], y[:400], folds, n_leaves=6, seed=0)
    assert log_loss(P, y[:400]) <= log_loss(alone, y[:400]) + 1e-3
    head.fit(X[:400], y[:400], n_leaves=6, seed=0)
    assert head.shares is not None
    assert sum(head.shares.values()) == pytest.approx(1)
    assert set(head.others) == {name for name in ("mlp", "lda") if head.shares[name]}
    assert head.others, "one of them helps here"
    said = head.predict_proba(X[400:])
    assert (said.argmax(axis=1) == y[400:]).mean() > 0.8
    head.save(tmp_path)
    loaded = load_head(tmp_path)
    assert np.array_equal(loaded.predict_proba(X[400:]), said)
    assert loaded.settings() == head.settings()


def test_members_that_were_trained_are_not_trained_again(clusters: Clusters) -> None:
    """The linear candidate is the ensemble's linear head, with the probabilities it had out of fold."""
    X, y = clusters
    folds = np.arange(600) % 4
    linear = LinearHead()
    P = linear.tune(X, y, folds, n_leaves=6, seed=0)
    linear.fit(X, y, n_leaves=6, seed=0)
    weights = linear.weights
    head = EnsembleHead(tuned={"linear": (linear, P)})
    head.tune(X, y, folds, n_leaves=6, seed=0)
    head.fit(X, y, n_leaves=6, seed=0)
    assert head.linear is linear
    assert linear.weights is weights


def test_without_neighbours_other_heads_still_count(clusters: Clusters) -> None:
    """Nothing may take the linear head's probabilities for the ensemble's while others have a share."""
    from tasks.student.levels import Levels

    X, y = clusters
    head = EnsembleHead(3.0, others=("lda",))
    head.fit(X, y, n_leaves=6, seed=0)
    head.shares = {"linear": 0.5, "lda": 0.5, NEIGHBOURS: 0.0}
    assert scorer_of(head, 1.0, Levels.flat(6)) is None
    P = head.predict_proba(X)
    assert not np.allclose(P, head.linear.predict_proba(X))


def test_an_unknown_member_is_refused_with_those_there_are() -> None:
    with pytest.raises(TrainingError, match=r"forest[\s\S]*mlp, lda"):
        EnsembleHead(others=("forest",))


def test_more_rows_than_may_vote_are_sampled_in_tuning_too(clusters: Clusters) -> None:
    """The share is learned with as few neighbours as will serve."""
    X, y = clusters
    folds = np.arange(600) % 4
    few, all_rows = EnsembleHead(3.0, max_neighbours=12), EnsembleHead(3.0)
    few.tune(X, y, folds, n_leaves=6, seed=0)
    all_rows.tune(X, y, folds, n_leaves=6, seed=0)
    assert (few.share or 0) <= (all_rows.share or 0)
    assert few.fit(X, y, n_leaves=6, seed=0).reference.shape == (12, 16)


@pytest.mark.parametrize("neighbours", [0.3, 0.0])
def test_the_onnx_graph_of_all_members_says_the_same(clusters: Clusters, neighbours: float) -> None:
    pytest.importorskip("onnxruntime")
    from tasks.embedding.encoders import EncoderSettings
    from tasks.student.onnx_comparison import OnnxStudent, clear_rows
    from tasks.student.onnx_export import graph_bytes
    from tasks.student.package import Student
    from tasks.taxonomy import Taxonomy

    X, y = clusters
    head = EnsembleHead(3.0, others=("mlp", "lda")).fit(X[:400], y[:400], n_leaves=6, seed=0)
    for name in ("mlp", "lda"):
        head.others.setdefault(name, make_head(name).fit(X[:400], y[:400], n_leaves=6, seed=0))
    head.shares = {"linear": 0.7 - neighbours, "mlp": 0.2, "lda": 0.1, NEIGHBOURS: neighbours}
    taxonomy = Taxonomy(("label",), tuple("abcdef"), {}, None)
    student = Student(taxonomy, head, "ensemble", "text", EncoderSettings("hash:16"), 0.9)
    asked = X[400:][clear_rows(student, X[400:])]
    P, leaf, _ = OnnxStudent(graph_bytes(student)).run(asked)
    np.testing.assert_allclose(P, student.probabilities(asked), atol=1e-4)
    assert np.array_equal(leaf, student.answers(asked).leaf)
