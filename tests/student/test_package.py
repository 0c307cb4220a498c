"""A student's folder: saved and loaded it is the same student, and a damaged one says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.embedding.encoders import EncoderSettings
from tasks.errors import InputError
from tasks.student.heads import make_head
from tasks.student.package import STUDENT_FILE, Student, load_student
from tasks.taxonomy import Taxonomy

TAXONOMY = Taxonomy(
    ("area", "kind"),
    ("a > x", "a > y", "b > x", "b > y", "short", "none of these"),
    {"a": "the first"},
    "none of these",
)
ENCODER = EncoderSettings("hash:16", prefix="passage: ", normalize=False, max_length=64)


def a_student(kind: str, clusters: tuple[np.ndarray, np.ndarray]) -> Student:
    X, y = clusters
    head = make_head(kind).fit(X, y, n_leaves=6, seed=0)
    about = {"path": {"starts": [1, 2]}, "note": "für später"}
    return Student(TAXONOMY, head, kind, "text", ENCODER, 0.6, about)


@pytest.mark.parametrize("kind", ["linear", "mlp", "ensemble"])
def test_saved_and_loaded_it_gives_the_same_probabilities(
    kind: str, clusters: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """Every field survives, probabilities to the last bit, and nothing is pickled."""
    student = a_student(kind, clusters)
    student.save(tmp_path / "student")
    loaded = load_student(tmp_path / "student")
    X = clusters[0]
    assert np.array_equal(loaded.probabilities(X), student.probabilities(X))
    assert loaded.answers(X).labels == student.answers(X).labels
    assert (loaded.kind, loaded.modality, loaded.encoder, loaded.temperature) == (kind, "text", ENCODER, 0.6)
    assert loaded.taxonomy == TAXONOMY
    assert loaded.about == student.about
    suffixes = {path.suffix for path in (tmp_path / "student").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}


def test_probabilities_are_calibrated_by_the_temperature(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    """Below 1 it sharpens, above 1 it flattens; answers stay, rows sum to 1; no row gives no row."""
    student, X = a_student("linear", clusters), clusters[0]
    sharp, flat = (replace(student, temperature=t).probabilities(X) for t in (0.5, 2.0))
    assert (sharp.max(axis=1) >= flat.max(axis=1) - 1e-6).all()
    assert np.array_equal(sharp.argmax(axis=1), flat.argmax(axis=1))
    np.testing.assert_allclose(sharp.sum(axis=1), 1, atol=1e-5)
    assert student.probabilities(X[:0]).shape == (0, 6)
    assert student.answers(X[:0]).labels == []


def test_confidences_never_rise_with_depth(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    """A deeper statement is never surer than the one it stands on; the last is `confidence`."""
    answers = a_student("ensemble", clusters).answers(clusters[0])
    assert (np.diff(answers.confidences, axis=1) <= 0).all()
    assert np.array_equal(answers.confidence, answers.confidences[:, -1])
    assert [TAXONOMY.leaves[leaf] for leaf in answers.leaf] == answers.labels


def test_a_damaged_or_newer_folder_is_refused(
    clusters: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """No file, half a file, another format: an input error that names the file and the way out."""
    with pytest.raises(InputError, match=r"student\.json: no readable student .*Retrain"):
        load_student(tmp_path)
    a_student("linear", clusters).save(tmp_path)
    file = tmp_path / STUDENT_FILE
    body = file.read_text(encoding="utf-8")
    file.write_text(body[: len(body) // 2], encoding="utf-8")
    with pytest.raises(InputError, match="no readable student"):
        load_student(tmp_path)
    file.write_text(json.dumps(json.loads(body) | {"format": 3}), encoding="utf-8")
    with pytest.raises(InputError, match=r"is of format 3, this version reads up to 2. Upgrade"):
        load_student(tmp_path)
    file.write_text(body, encoding="utf-8")
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(InputError, match="head"):
        load_student(tmp_path)
