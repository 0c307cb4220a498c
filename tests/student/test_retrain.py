"""A retrain chooses out of fold, judges on gold, and a recalibration writes only what is new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.cleaning.steps import clean_snapshot
from tasks.embedding.encoders import EncoderSettings
from tasks.errors import TrainingError
from tasks.project import Project, load_project
from tasks.promotion.steps import promote_challenger
from tasks.records import text_key
from tasks.store import Store, open_store, schema
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tasks.store.policies import policy_in_force
from tasks.store.traffic import append_traffic
from tasks.student.calibration import log_loss
from tasks.student.crossfit import fold_of
from tasks.student.judged import with_roles
from tasks.student.retrain import Trained, flat_metrics, retrain
from tasks.student.steps import recalibrate_champion, take_snapshot, train_and_register
from tasks.student.training import Rows
from tasks.taxonomy import Taxonomy
from tests.conftest import TINY_LEAVES, write_tiny_project
from tests.monitoring.filled import items_of, request

TAXONOMY = Taxonomy(("area", "kind"), ("a > 1", "a > 2", "b > 3", "b > 4", "b > 5", "other"), {}, "other")
ENCODER = EncoderSettings("hash:16")
Clusters = tuple[np.ndarray, np.ndarray]


def keys(count: int) -> list[bytes]:
    return [text_key(f"item {n}") for n in range(count)]


def rows_of(X: np.ndarray, y: np.ndarray, **other: Any) -> Rows:
    folds = fold_of(keys(len(y)), 5, 0)
    rows = Rows(X, y.astype(np.int64), y.astype(np.int64), folds, np.ones(len(y), np.float32))
    return replace(rows, **other)


def gold_of(y: np.ndarray) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "key": [text_key(f"gold {n}") for n in range(len(y))],
            "label": [TAXONOMY.leaves[leaf] for leaf in y],
        },
        schema={"key": pl.Binary, "label": pl.String},
    )
    return with_roles(frame)


def train(rows: Rows, names: list[str], gold_X: np.ndarray, gold_y: np.ndarray) -> Trained:
    return retrain(rows, names, TAXONOMY, ENCODER, "text", gold_of(gold_y), (gold_X, None))


@pytest.fixture(scope="module")
def with_gold(clusters: Clusters) -> Trained:
    """Two candidates trained on the first 400 of the clusters, the other 200 being gold."""
    X, y = clusters
    return train(rows_of(X[:400], y[:400]), ["linear", "ensemble"], X[400:], y[400:])


def test_the_winner_has_the_least_out_of_fold_loss(with_gold: Trained, clusters: Clusters) -> None:
    """Gold chooses nothing: the losses are those of the out-of-fold probabilities on the raw labels."""
    losses = {candidate.name: candidate.loss for candidate in with_gold.candidates}
    assert losses.keys() == {"linear", "ensemble"}
    assert with_gold.student.kind == min(losses, key=lambda name: losses[name])
    for candidate in with_gold.candidates:
        assert candidate.loss == pytest.approx(log_loss(candidate.out_of_fold, clusters[1][:400]), rel=1e-5)


def test_shuffling_gold_labels_changes_no_choice(with_gold: Trained, clusters: Clusters) -> None:
    """With nonsense for gold the same candidate wins with the same weights, and only the scores fall."""
    X, y = clusters
    nonsense = np.random.default_rng(3).permutation(y[400:])
    other = train(rows_of(X[:400], y[:400]), ["linear", "ensemble"], X[400:], nonsense)
    assert other.student.kind == with_gold.student.kind
    assert [c.loss for c in other.candidates] == [c.loss for c in with_gold.candidates]
    assert other.winner_scores[-1].top1 < with_gold.winner_scores[-1].top1 - 0.2


def test_metrics_bear_the_documented_names(with_gold: Trained) -> None:
    """`gold.LEVEL.top1|top3|top5|macro_f1` and `ece`, each in [0, 1], top-k never falling with k."""
    metrics = flat_metrics(with_gold.winner_scores, with_gold.judged_on)
    wanted = {
        f"gold.{level}.{name}" for level in ("area", "kind") for name in ("top1", "top3", "top5", "macro_f1")
    }
    assert metrics.keys() == wanted | {"ece"}
    assert all(0 <= value <= 1 for value in metrics.values())
    assert metrics["gold.kind.top1"] <= metrics["gold.kind.top3"] <= metrics["gold.kind.top5"]
    assert metrics["gold.kind.top1"] > 0.5


def test_only_the_evaluation_half_is_scored(with_gold: Trained) -> None:
    """The rows that certify are predicted and nothing else; the sample handed on holds exactly them."""
    assert with_gold.gold is not None
    evaluation, calibration = (with_gold.gold.role(role) for role in ("evaluation", "calibration"))
    assert not (evaluation & calibration).any()
    assert with_gold.winner_scores[-1].items == evaluation.sum() > 0
    sample = with_gold.gold.sample("gold", calibration)
    assert len(sample.truth) == calibration.sum() > 0
    right = (
        np.array(with_gold.gold.answers.labels)[calibration]
        == with_gold.gold.frame["label"].to_numpy()[calibration]
    )
    assert np.array_equal(sample.wrong, ~right)


def test_without_gold_held_out_labels_judge(clusters: Clusters) -> None:
    """Metrics then say heldout, there is no gold sample, and the held-out one is marked cross-fitted."""
    X, y = clusters
    trained = train(rows_of(X[:300], y[:300]), ["linear"], X[:0], y[:0])
    assert (trained.judged_on, trained.gold) == ("heldout", None)
    assert "heldout.kind.top1" in flat_metrics(trained.winner_scores, trained.judged_on)
    assert trained.held_out.cross_fitted
    assert (trained.held_out.against, len(trained.held_out.truth)) == ("teacher", 300)
    assert trained.student.temperature == 1.0


def test_cleaned_labels_teach_and_raw_labels_judge(clusters: Clusters) -> None:
    """Unsettled rows are learned from but judge nothing, and the winner is trained once more without cleaning."""
    X, y = clusters
    raw = y[:400].copy()
    raw[:80] = (raw[:80] + 1) % 5  # wrong labels that cleaning mended
    unsettled = np.where(np.arange(400) % 10 == 9, -1, raw)
    rows = rows_of(X[:400], y[:400], raw_labels=unsettled.astype(np.int64))
    trained = train(rows, ["linear"], X[400:], y[400:])
    assert len(trained.held_out.truth) == 360
    assert trained.scores.keys() == {"linear", "raw labels"}
    assert trained.scores["linear"][-1].top1 > trained.scores["raw labels"][-1].top1
    assert [candidate.name for candidate in trained.candidates] == ["linear", "raw labels"]


def test_a_text_project_cannot_train_an_image_model(clusters: Clusters) -> None:
    """The candidate `timm` without images is refused in words."""
    X, y = clusters
    with pytest.raises(TrainingError, match=r"timm.*text task"):
        train(rows_of(X[:50], y[:50]), ["timm"], X[:0], y[:0])


LEAVES = [" > ".join(leaf) for leaf in TINY_LEAVES]


def _names(count: int, what: str) -> list[str]:
    """`count` names, the noun of leaf n % 6 in each; mostly telling, some misleading."""
    nouns = list(TINY_LEAVES.values())
    rng = np.random.default_rng(len(what))
    told = [(n + (rng.random() < 0.08)) % 6 for n in range(count)]
    return [f"{what}{n} {nouns[leaf][int(rng.integers(5))]}" for n, leaf in enumerate(told)]


def _labelled(project: Project, store: Store) -> None:
    names = _names(360, "item")
    append_items(store, items_of(names), "source", 1)
    append_labels(store, [(text_key(name), LEAVES[n % 6], "consensus") for n, name in enumerate(names)], 1)


def _audited(store: Store, first: int, last: int) -> None:
    names = _names(900, "traffic")[first:last]
    append_items(store, items_of(names), "traffic", 2)
    rows = [
        request(name, "teacher", LEAVES[n % 6], audited=True, teacher_label=LEAVES[n % 6])
        for n, name in enumerate(names, start=first)
    ]
    append_traffic(store, rows, 2)


@pytest.mark.slow
def test_recalibrating_writes_only_a_policy_that_says_something_new(tmp_path: Path) -> None:
    """Nothing new: the policy in force stays. A handful of audits: it stays. Hundreds: one new policy, once."""
    file = write_tiny_project(
        tmp_path / "conf", gold=None, routing={"target_error": 0.3, "confidence": 0.8}, task={"other": None}
    )
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    _labelled(project, store)
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    assert recalibrate_champion.fn(project, 1) is None, "there is no champion yet"
    retrained = train_and_register.fn(project, cleaned, 1)
    assert promote_challenger.fn(project).promoted
    first = policy_in_force(store, retrained.model_version)
    assert first is not None
    assert (first.against, first.cross_fitted, first.calibration_items) == ("teacher", True, 360)
    assert first.certified_coverage > 0

    def policies() -> int:
        return store.read(schema.policies.select()).height

    assert recalibrate_champion.fn(project, 2) == first
    _audited(store, 0, 40)
    assert recalibrate_champion.fn(project, 3) == first, "a few rows do not overrule hundreds"
    assert policies() == 1
    _audited(store, 40, 900)
    second = recalibrate_champion.fn(project, 4)
    assert second is not None
    assert (second.against, second.cross_fitted, second.model_version) == (
        "teacher",
        False,
        first.model_version,
    )
    assert second.calibration_items == pytest.approx(450, abs=60)
    assert policies() == 2
    assert recalibrate_champion.fn(project, 5) == policy_in_force(store, retrained.model_version)
    assert policies() == 2
    store.close()


def test_a_cleaning_cut_short_is_repeated(tmp_path: Path) -> None:
    """What a kill leaves of a cleaning is not taken for one: the next run cleans again and gives the same."""
    project = load_project(write_tiny_project(tmp_path / "conf", gold=None))
    store = open_store(project.database_url, project.project)
    _labelled(project, store)
    snapshot = take_snapshot.fn(project)
    whole = clean_snapshot.fn(project, snapshot)
    said = Path(whole.path).with_suffix(".json")
    text = said.read_text(encoding="utf-8")
    said.unlink()  # killed after the labels and before the record
    said.with_suffix(".json.tmp").write_text(text[:50], encoding="utf-8")  # ... or while writing it
    again = clean_snapshot.fn(project, snapshot)
    assert again == whole
    assert pl.read_parquet(again.path).height == snapshot.rows == 360
    assert clean_snapshot.fn(project, snapshot).as_dict().keys() == whole.as_dict().keys()
    store.close()
