"""What limits quality is named rightly where it is known, because it was made so."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tasks.embedding.encoders import EncoderSettings
from tasks.records import text_key
from tasks.student.beside_teacher import BesideTeacher
from tasks.student.crossfit import fold_of
from tasks.student.evaluation import LevelScores
from tasks.student.evaluation_report import EvaluationReport, evaluation_report
from tasks.student.judged import with_roles
from tasks.student.limits import CAUSES, Evidence, limit_of
from tasks.student.retrain import retrain
from tasks.student.training import Rows
from tasks.taxonomy import Taxonomy

FEW, MANY = 6, 40
TAXONOMIES = {
    count: Taxonomy(("kind",), tuple(f"label {n:02}" for n in range(count)), {}) for count in (FEW, MANY)
}
NO_SLICES = pl.DataFrame(schema={"key": pl.Binary})


def clusters(
    count: int, spread: float, seed: int, leaves: int = FEW, width: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around centres that are the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(leaves, width))
    rng = np.random.default_rng(seed)
    y = rng.integers(0, leaves, count)
    X = centres[y] + rng.normal(scale=spread, size=(count, width))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), y


def rings(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two labels in which no straight line divides: each lies in two opposite corners, the others fill up."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 4, count)
    centres = np.array([(1, 1), (-1, -1), (1, -1), (-1, 1)], float)[corner]
    X = np.hstack([centres + rng.normal(scale=0.25, size=(count, 2)), np.full((count, 1), 0.5)])
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), (corner >= 2).astype(np.int64)


def reported(
    taught: tuple[np.ndarray, np.ndarray],
    gold: tuple[np.ndarray, np.ndarray],
    teacher: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    noise: float | None = None,
) -> EvaluationReport:
    """A linear student of these rows (taught `labels` where they differ from the truth), judged on gold."""
    X, y = taught[0], taught[1] if labels is None else labels
    taxonomy = TAXONOMIES[FEW if max(gold[1]) < FEW else MANY]
    folds = fold_of([text_key(f"row {n}") for n in range(len(y))], 5, 0)
    rows = Rows(X, y.astype(np.int64), y.astype(np.int64), folds, np.ones(len(y), np.float32))
    keys = [text_key(f"gold {n}") for n in range(len(gold[1]))]
    frame = pl.DataFrame({"key": keys, "label": [taxonomy.leaves[leaf] for leaf in gold[1]]})
    trained = retrain(
        rows, ["linear"], taxonomy, EncoderSettings("hash:16"), "text", with_roles(frame), (gold[0], None)
    )
    answers = [] if teacher is None else [taxonomy.leaves[leaf] for leaf in teacher]
    said = pl.DataFrame(
        {"key": keys[: len(answers)], "said": answers}, schema={"key": pl.Binary, "said": pl.String}
    )
    return evaluation_report(trained, rows, said, NO_SLICES, noise, 0.0)


def confused(y: np.ndarray, seed: int, share: float = 0.7) -> np.ndarray:
    """A teacher that takes most of label 0 for label 1, and of label 2 for label 3."""
    wrong = np.isin(y, (0, 2)) & (np.random.default_rng(seed).random(len(y)) < share)
    return np.where(wrong, y + 1, y)


def test_a_teacher_that_confuses_labels_is_the_limit() -> None:
    """The student learns the teacher's confusion and repeats it on gold."""
    taught, gold = clusters(1500, 0.5, 1), clusters(600, 0.5, 2)
    found = reported(taught, gold, confused(gold[1], 3), confused(taught[1], 4)).limit
    assert found.cause == "labels"
    assert found.sentence.startswith("The labels limit quality most")
    assert "gold items that the teacher gets wrong it gets" in found.sentence


def test_noisy_labels_are_the_limit_where_the_teacher_was_not_asked_about_gold() -> None:
    """Then the student's agreement with labels held out, beyond being right, stands for what could not be counted."""
    taught, gold = clusters(1500, 0.5, 1), clusters(600, 0.5, 2)
    found = reported(taught, gold, None, confused(taught[1], 4), 0.23).limit
    assert found.cause == "labels"
    assert "of the labels held out, which is more than it is right on gold" in found.sentence


def test_random_noise_costs_a_part_of_itself() -> None:
    """What a student averages away is not held against the labels; what cleaning mended is not counted again."""
    evidence = Evidence(None, 0.15, 0.1, None, {"linear": 0.7}, "linear")
    found = limit_of([scored(0.8)], evidence)
    assert found.shares["labels"] == pytest.approx(0.3 * 0.1)
    assert "about 10.0% of the labels that it learned from are estimated wrong" in found.why["labels"]


def test_few_rows_are_the_limit() -> None:
    """Many labels with a handful of rows each, which separate well with more of them."""
    gold = clusters(600, 1.5, 2, MANY, 64)
    found = reported(clusters(200, 1.5, 1, MANY, 64), gold, gold[1]).limit
    more = reported(clusters(4000, 1.5, 3, MANY, 64), gold, gold[1]).limit
    assert found.cause == "data"
    assert "label more items" in found.sentence
    assert more.shares["data"] < 0.1 * found.shares["data"]


def test_a_blind_encoder_is_the_limit() -> None:
    """Vectors that hold little of the label: enough rows, right labels, and no head finds more."""
    taught, gold = clusters(3000, 4.0, 1), clusters(600, 4.0, 2)
    found = reported(taught, gold, gold[1]).limit
    assert found.cause == "encoder"
    assert "another encoder" in found.sentence or "train the encoder" in found.sentence


def test_a_head_that_cannot_bend_is_the_limit() -> None:
    """No straight line tells the two labels apart, their neighbours do."""
    taught, gold = rings(1500, 1), rings(600, 2)
    found = reported(taught, gold, gold[1]).limit
    assert found.cause == "head"
    assert "a vote of neighbours is right on" in found.sentence
    assert "add mlp and ensemble to student.candidates" in found.sentence


def scored(top1: float, top3: float = 0.98, top5: float = 0.99, level: str = "kind") -> LevelScores:
    return LevelScores(level, 400, top1, top3, top5, top1, 0.02)


def test_a_student_that_is_nearly_always_right_has_no_limit() -> None:
    nothing = Evidence(None, None, 0.0, None, {"linear": 0.99}, "linear")
    found = limit_of([scored(0.99, 1.0, 1.0)], nothing)
    assert found.cause is None
    assert found.sentence.startswith("Nothing limits quality much: 99.0% are right")
    assert set(found.shares) == set(found.why) == set(CAUSES)


def test_the_sentence_is_one_and_says_where_errors_begin() -> None:
    evidence = Evidence(None, 0.2, 0.0, None, {"linear": 0.8}, "linear")
    sentence = limit_of([scored(0.85, level="top"), scored(0.8)], evidence).sentence
    assert "most errors already begin at top" in sentence
    assert sentence.count(". ") == 0
    assert sentence.endswith(".")


def test_held_out_labels_that_are_wrong_count_as_errors() -> None:
    """Without gold, wrong labels judge: all of the noise may be in the error."""
    evidence = Evidence(None, 0.15, 0.0, None, {"linear": 0.8}, "linear")
    assert limit_of([scored(0.8)], evidence, "heldout").shares["labels"] == pytest.approx(0.15)


def test_a_student_that_errs_where_its_teacher_does_no_more_than_elsewhere_was_taught_right() -> None:
    """Twenty of a hundred wrong where the teacher is right and where it is not: chance, not labels."""
    apart = BesideTeacher("kind", 320, 80, 80, 8, 12, (0.0, -0.05, 0.05))
    found = limit_of([scored(0.8)], Evidence(apart, 0.2, 0.0, None, {"linear": 0.8}, "linear"))
    assert found.shares["labels"] == pytest.approx(0.0)
    alike = BesideTeacher("kind", 400, 20, 0, 60, 20, (0.04, 0.0, 0.08))
    found = limit_of([scored(0.84)], Evidence(alike, 0.2, 0.0, None, {"linear": 0.84}, "linear"))
    assert found.shares["labels"] == pytest.approx(80 / 500)
    assert (
        "of 100 gold items that the teacher gets wrong it gets 80 wrong, too (60 of them alike)"
        in found.why["labels"]
    )
