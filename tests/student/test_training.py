import numpy as np
import polars as pl
import pytest

from tasks.errors import TrainingError
from tasks.student.levels import Levels, decode
from tasks.student.search import Search
from tasks.student.training import Rows, starts_of, train_candidates

Clusters = tuple[np.ndarray, np.ndarray]
NAMES = ("linear", "mlp", "ensemble", "lda")


def rows_of(X: np.ndarray, y: np.ndarray, folds: np.ndarray | None = None) -> Rows:
    given = np.arange(len(y)) % 5 if folds is None else folds
    y = y.astype(np.int64)
    return Rows(X, y, y, given.astype(np.int16), np.ones(len(y), np.float32))


def test_the_ensemble_takes_heads_as_they_were_trained(clusters: Clusters) -> None:
    """Its linear head is the linear candidate, and what else it averages is that candidate too."""
    X, y = clusters
    found, _ = train_candidates(("linear", "lda", "ensemble"), rows_of(X, y), 6, 0, ensemble_with=("lda",))
    models = {one.name: one.model for one in found}
    assert models["ensemble"].linear is models["linear"]
    assert models["ensemble"].others.get("lda", models["lda"]) is models["lda"]
    assert {one.name: one.settings["kind"] for one in found} == {name: name for name in models}


def test_the_ensemble_is_trained_last_wherever_it_is_named(clusters: Clusters) -> None:
    X, y = clusters
    names = ("ensemble", "mlp", "linear")
    found, _ = train_candidates(names, rows_of(X, y), 6, 0, ensemble_with=("mlp",))
    models = {one.name: one.model for one in found}
    assert tuple(models) == names
    assert models["ensemble"].linear is models["linear"]
    assert models["ensemble"].others.get("mlp", models["mlp"]) is models["mlp"]


def test_after_a_search_an_ensemble_goes_on_with_its_shares_and_its_members_with_theirs(
    clusters: Clusters,
) -> None:
    """Nothing is tuned again: every member starts from its weights, with the settings it had as a candidate."""
    X, y = clusters
    rows = rows_of(X, y)
    first, _ = train_candidates(("linear", "mlp", "ensemble"), rows, 6, 0, ensemble_with=("mlp",))
    settings = {one.name: one.settings for one in first}
    assert settings["ensemble"].get("mlp_share"), "or there is nothing to go on with"
    learned = pl.DataFrame(schema={"key": pl.Binary, "label": pl.String, "fold": pl.Int16})
    search = Search(0.0, "", "ensemble", settings, learned, starts_of(first))
    [then], _ = train_candidates(["ensemble"], rows, 6, 0, ensemble_with=("mlp",), search=search)
    again = then.settings | {"temperature": settings["ensemble"]["temperature"]}
    assert again == pytest.approx(settings["ensemble"])
    member = then.model.others["mlp"]
    assert member.starts
    assert member.settings() == settings["mlp"] | {"temperature": member.temperature}
    assert then.model.linear.starts
    assert then.loss < next(one.loss for one in first if one.name == "ensemble") + 0.05


def test_a_label_with_one_example_is_learned_with_the_others(clusters: Clusters) -> None:
    """Out of fold it is judged by heads that never saw it: probability 0, a finite loss."""
    X, y = clusters
    y = np.where(y == 5, 4, y)
    y[17] = 5
    found, _ = train_candidates(NAMES, rows_of(X, y), 6, 0)
    for one in found:
        assert np.isfinite(one.loss), one.name
        assert one.out_of_fold[17, 5] == 0, one.name
        assert one.model.predict_proba(X[17:18])[0, 5] > 0, one.name


def test_where_all_labels_are_the_same_they_are_what_is_said(clusters: Clusters) -> None:
    X, _ = clusters
    found, _ = train_candidates(NAMES, rows_of(X[:60], np.full(60, 3)), 6, 0)
    for one in found:
        np.testing.assert_allclose(one.model.predict_proba(X[60:80])[:, 3], 1, atol=1e-6)
        assert one.loss == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("labels", [[0, 1, 0], [0, 1, 2, 3], [1, 1, 0, 0]])
def test_fewer_rows_than_folds_are_trained_on(labels: list[int]) -> None:
    """Each in a fold of its own; what nobody else taught costs a finite loss."""
    X = np.eye(len(labels), 8, dtype=np.float32)
    found, _ = train_candidates(NAMES, rows_of(X, np.array(labels)), 5, 0)
    for one in found:
        assert np.isfinite(one.loss), one.name
        P = one.model.predict_proba(X)
        np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-5)


def test_vectors_that_are_not_numbers_are_refused_with_their_row_before_anything_is_trained(
    clusters: Clusters,
) -> None:
    X, y = clusters
    broken = X.copy()
    broken[41, 3] = np.nan
    broken[7, 0] = np.inf
    for name in NAMES:
        with pytest.raises(TrainingError, match=r"2 of 600 vectors[\s\S]*row 7[\s\S]*encode"):
            train_candidates((name,), rows_of(broken, y), 6, 0)


def test_all_rows_in_one_fold_are_refused_with_the_way_out(clusters: Clusters) -> None:
    X, y = clusters
    for name in NAMES:
        with pytest.raises(TrainingError, match=r"one fold[\s\S]*label more items"):
            train_candidates((name,), rows_of(X[:30], y[:30], np.zeros(30, int)), 6, 0)


def test_a_level_with_one_label_is_certain_and_changes_no_leaf(clusters: Clusters) -> None:
    X, y = clusters
    [linear], _ = train_candidates(("linear",), rows_of(X, y), 6, 0)
    P = linear.model.predict_proba(X)
    leaves = np.arange(6, dtype=np.int32)
    answers = decode(P, Levels(("all", "label"), (np.zeros(6, np.int32), leaves), (1, 6)))
    np.testing.assert_allclose(answers.confidences[:, 0], 1, atol=1e-6)
    assert np.array_equal(answers.leaf, P.argmax(axis=1))
