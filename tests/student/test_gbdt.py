"""Boosted trees keep what every head promises, and say what is missing where XGBoost is not there."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.embedding.encoders import EncoderSettings
from tasks.errors import InputError, TrainingError
from tasks.student import gbdt
from tasks.student.calibration import log_loss
from tasks.student.gbdt import TREES_FILE, GbdtHead
from tasks.student.heads import load_head, make_head
from tasks.student.package import Student, load_student
from tasks.student.training import Rows, train_candidates
from tasks.taxonomy import Taxonomy

Clusters = tuple[np.ndarray, np.ndarray]
needs_xgboost = pytest.mark.skipif(
    importlib.util.find_spec("xgboost") is None, reason="the extra `xgboost` is not installed"
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 25 rounds: enough for six clusters."""
    monkeypatch.setattr(gbdt, "MAX_ROUNDS", 25)


@needs_xgboost
@pytest.mark.usefixtures("short")
def test_tuned_out_of_fold_it_learns_and_survives_saving(clusters: Clusters, tmp_path: Path) -> None:
    """Better than chance by far, leaves never seen exactly 0, to the last bit the same after loading, no pickle."""
    X, y = clusters
    head = GbdtHead()
    weight = np.linspace(0.5, 1.5, 400).astype(np.float32)
    oof = head.tune(X[:400], y[:400], np.arange(400) % 3, weight, n_leaves=9, seed=0)
    assert (oof.argmax(axis=1) == y[:400]).mean() > 0.7
    np.testing.assert_allclose(oof.sum(axis=1), 1, atol=1e-5)
    assert head.rounds == head.settings()["rounds"]
    assert 1 < (head.rounds or 0) <= 25
    assert (head.depth, head.penalty) in gbdt.VARIANTS
    head.fit(X[:400], y[:400], weight, n_leaves=9, seed=0)
    P = head.predict_proba(X[400:])
    assert (P.argmax(axis=1) == y[400:]).mean() > 0.7
    assert P.dtype == np.float32
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-5)
    assert np.all(P[:, 6:] == 0)
    head.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"head.json", "head.safetensors", TREES_FILE}
    loaded = load_head(tmp_path)
    assert np.array_equal(loaded.predict_proba(X[400:]), P)
    assert np.array_equal(loaded.predict_proba(X[400:401]), P[:1]), "one item is answered as in a batch"
    assert loaded.settings() == head.settings()
    assert head.predict_proba(X[:0]).shape == (0, 9)


@needs_xgboost
@pytest.mark.usefixtures("short")
def test_the_chosen_rounds_are_those_with_the_least_loss(clusters: Clusters) -> None:
    """Fewer or more rounds than chosen lose more on the same folds, both at their best temperature."""
    X, y = clusters[0][:300], clusters[1][:300]
    folds = np.arange(300) % 2
    tuned = GbdtHead()
    loss = log_loss(tuned.tune(X, y, folds, n_leaves=6, seed=1), y)
    assert tuned.rounds is not None
    few = GbdtHead(2, tuned.depth, tuned.penalty)
    assert log_loss(few.tune(X, y, folds, n_leaves=6, seed=1), y) > loss
    again = GbdtHead()
    assert log_loss(again.tune(X, y, folds, n_leaves=6, seed=1), y) == loss, "the same seed, the same trees"


@needs_xgboost
@pytest.mark.usefixtures("short")
def test_rows_judge_only_what_their_trees_know(clusters: Clusters) -> None:
    """A label inside one fold only is never predicted there; rows without a label are judged, never learned from."""
    X, y = clusters[0][:200], clusters[1][:200].copy()
    folds = np.arange(200) % 2
    y[y == 5] = 4
    y[[0, 2]] = 5  # both in fold 0
    y[-20:] = -1
    P = GbdtHead().tune(X, y, folds, n_leaves=6, seed=0)
    assert np.all(P[folds == 0, 5] == 0)
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-5)
    assert len(np.unique(P[-20:].argmax(axis=1))) > 1


@needs_xgboost
@pytest.mark.parametrize("labels", [[0], [2, 2, 2], [0, 1], [0, 0, 0, 0, 1], [3, 1, 0]])
def test_tiny_and_lopsided_data_work(labels: list[int], tmp_path: Path) -> None:
    """One row, one label, a label with one example, fewer rows than folds; saved and loaded too."""
    X = np.eye(len(labels), 4, dtype=np.float32)
    head = GbdtHead().fit(X, np.array(labels), n_leaves=5, seed=0)
    P = head.predict_proba(X)
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-5)
    assert np.all(P[:, np.setdiff1d(np.arange(5), labels)] == 0)
    head.save(tmp_path)
    assert np.array_equal(load_head(tmp_path).predict_proba(X), P)


@needs_xgboost
def test_what_cannot_be_learned_from_is_refused_with_the_reason() -> None:
    """As of every head: values that are not finite, labels out of range, one fold."""
    X, y = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    broken = X.copy()
    broken[2, 1] = np.nan
    with pytest.raises(TrainingError, match="row 2"):
        GbdtHead().fit(broken, y, n_leaves=3, seed=0)
    with pytest.raises(TrainingError, match="3 leaves"):
        GbdtHead().fit(X, y + 7, n_leaves=3, seed=0)
    with pytest.raises(TrainingError, match="one fold"):
        GbdtHead().tune(X, y, np.zeros(4, int), n_leaves=3, seed=0)


@needs_xgboost
def test_damaged_trees_are_named(clusters: Clusters, tmp_path: Path) -> None:
    """A missing and a cut file are input errors with the file's name and the way out."""
    GbdtHead(3).fit(clusters[0], clusters[1], n_leaves=6, seed=0).save(tmp_path)
    whole = (tmp_path / TREES_FILE).read_bytes()
    (tmp_path / TREES_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"head\.ubj: cannot be read as trees .*train the student again"):
        load_head(tmp_path)
    (tmp_path / TREES_FILE).unlink()
    with pytest.raises(InputError, match=r"head\.ubj"):
        load_head(tmp_path)


@needs_xgboost
@pytest.mark.usefixtures("short")
def test_it_is_compared_like_the_others_and_serves(clusters: Clusters, tmp_path: Path) -> None:
    """A candidate with its out-of-fold loss and settings; as a student it answers the same after loading."""
    X, y = clusters
    rows = Rows(X, y, y, (np.arange(600) % 3).astype(np.int16), np.ones(600, np.float32))
    candidates, winner = train_candidates(["linear", "gbdt"], rows, 6, 0)
    losses = {candidate.name: candidate.loss for candidate in candidates}
    assert set(losses) == {"linear", "gbdt"}
    assert winner == min(losses, key=lambda name: losses[name])
    trees = candidates[1]
    assert trees.settings["kind"] == "gbdt"
    taxonomy = Taxonomy(("label",), ("a", "b", "c", "d", "e", "f"), {}, None)
    student = Student(taxonomy, trees.model, "gbdt", "text", EncoderSettings("hash:16"), 0.8)
    student.save(tmp_path)
    assert np.array_equal(load_student(tmp_path).answers(X).confidences, student.answers(X).confidences)


@needs_xgboost
def test_as_onnx_it_is_named_as_not_exportable(clusters: Clusters, tmp_path: Path) -> None:
    """Whoever exports it hears which kind it is and which kinds can be."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    from tasks.student.onnx_export import export_onnx

    head = GbdtHead(2).fit(clusters[0], clusters[1], n_leaves=6, seed=0)
    taxonomy = Taxonomy(("label",), ("a", "b", "c", "d", "e", "f"), {}, None)
    student = Student(taxonomy, head, "gbdt", "text", EncoderSettings("hash:16"))
    with pytest.raises(TrainingError, match="kind `gbdt` has no ONNX form"):
        export_onnx(replace(student), tmp_path, clusters[0], model_version="1")


def test_without_the_extra_it_says_which_one(monkeypatch: pytest.MonkeyPatch, clusters: Clusters) -> None:
    """Before anything is trained: a retrain does not fit the other candidates first, only to fail then."""
    monkeypatch.setattr(gbdt, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"`gbdt` needs XGBoost.*llm-flywheel\[xgboost\]"):
        make_head("gbdt")
    X, y = clusters
    rows = Rows(
        X, y, y, np.zeros(600, np.int16), np.ones(600, np.float32)
    )  # one fold: no head could be tuned
    with pytest.raises(TrainingError, match="needs XGBoost"):
        train_candidates(["linear", "gbdt"], rows, 6, 0)
