"""The benchmark of unfamiliar items runs in little, and its numbers are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.benchmarks import unfamiliar as benchmark


def blobs(name: str, seed: int) -> benchmark.Data:
    """Twelve labels under four, 40 rows of each around a centre, a third of them the test split."""
    rng, rows = np.random.default_rng(seed), 480
    y = np.arange(rows) % 12
    X = rng.normal(size=(12, 24))[y] + 0.9 * rng.normal(size=(rows, 24))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    table = pl.DataFrame(
        {
            "id": [f"{name}-{row}" for row in range(rows)],
            "text": ["".join(rng.choice(list("abcdefghij"), 30)) for _ in range(rows)],
            "split": np.where(rng.random(rows) < 0.33, "test", "train").tolist(),
            "label": [f"l{leaf // 3} > {leaf}" for leaf in y],
        }
    )
    return benchmark.Data(name, table, X.astype(np.float32), ("l1", "l2"))


def test_it_prints_curves_and_promises(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.measure(blobs("here", 1), blobs("elsewhere", 2), seeds=1, draws=2)
    said = capsys.readouterr().out
    for words in (*benchmark.METHODS, "here, far (elsewhere)", "here, near", "promise missed", "in part"):
        assert words in said


def test_a_curve_counts_what_is_let_through() -> None:
    """At the threshold that half of the known items reach; coverage is where a twentieth is wrong."""
    known, unseen = np.linspace(0, 1, 101), np.array([0.1, 0.6, 0.7, 0.9])
    assert benchmark.accepted_unseen(known, unseen, 0.5) == 0.75
    right = np.ones(100, bool)
    right[[10, 11]] = False
    assert benchmark.coverage_at(-np.arange(100.0), right) == 1.0


def test_unseen_items_that_are_answered_are_mistakes() -> None:
    """The true error of a mixture: a tenth unseen, all of it wrong, beside known items that are right."""
    scores = [np.full((4, 1), 0.9), np.array([[0.9], [0.1]])]
    wrong = [np.zeros(4, bool), np.ones(2, bool)]
    error, known, unseen = benchmark._true_error(scores, wrong, (0.5,))
    assert (known, unseen) == (1.0, 0.5)
    assert error == pytest.approx(0.05 / 0.95)
    assert benchmark._true_error(scores, wrong, None) == (0.0, 0.0, 0.0)


def test_it_skips_without_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--data", str(tmp_path)]) == 0
    assert "Skipped" in capsys.readouterr().out
