"""A student in ONNX says what the student says, or is not written; the page beside it runs as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.embedding.encoders import EncoderSettings
from tasks.errors import ConfigError, TrainingError
from tasks.student import onnx_comparison
from tasks.student.ensemble import EnsembleHead
from tasks.student.familiarity import fit_prototypes
from tasks.student.levels import decode
from tasks.student.linear import LinearHead
from tasks.student.mlp import MlpHead
from tasks.student.onnx_comparison import OnnxStudent, graph_inputs, needs
from tasks.student.onnx_export import export_onnx, graph_bytes
from tasks.student.package import Student
from tasks.student.thresholds import accepts
from tasks.student.timm_student import TimmStudent
from tasks.taxonomy import Taxonomy
from tests.student.test_timm_student import stripes

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

# The leaves' nodes of the last level are not in their order, branches end at two depths, two leaves are never seen.
TAXONOMY = Taxonomy(
    ("area", "kind"),
    ("a > x", "b > y", "a > z", "short", "b > x", "a > w", "b > w", "none of these"),
    {},
    "none of these",
)
PLACES = np.array([0, 2, 3, 4, 6, 7])
ENCODER = EncoderSettings("hash:16", prefix="passage: ")
THRESHOLDS = {"area": 0.7, "kind": 0.55}
Clusters = tuple[np.ndarray, np.ndarray]


def head_of(kind: str, X: np.ndarray, y: np.ndarray) -> Any:
    if kind == "linear":
        return LinearHead(3.0).fit(X, y, n_leaves=8, seed=0)
    if kind == "mlp":
        return MlpHead(2).fit(X, y, n_leaves=8, seed=0)
    share = {"ensemble": 0.4, "ensemble without neighbours": 0.0}[kind]
    weight = np.linspace(0.2, 1.0, len(y)).astype(np.float32) if share else None
    head = EnsembleHead(3.0, share).fit(X, y, weight, n_leaves=8, seed=0)
    head.temperature = 0.9
    return head


def a_student(kind: str, clusters: Clusters, temperature: float = 0.8, familiar: bool = False) -> Student:
    X, y = clusters
    head = head_of(kind, X[:400], PLACES[y[:400]])
    (head.linear if isinstance(head, EnsembleHead) else head).temperature = 1.3
    student = Student(TAXONOMY, head, kind.split()[0], "text", ENCODER, temperature)
    if not familiar:
        return student
    prototypes, _ = fit_prototypes(
        X[:400], PLACES[y[:400]], np.arange(400) % 5, PLACES[y[:400]], n_leaves=8, per_label=3, seed=0
    )
    return replace(student, prototypes=prototypes)


@pytest.mark.parametrize("kind", ["linear", "mlp", "ensemble", "ensemble without neighbours"])
@pytest.mark.parametrize("temperature", [1.0, 0.8, 7.0, 0.2])
def test_the_graph_says_what_the_student_says(kind: str, temperature: float, clusters: Clusters) -> None:
    """Probabilities within 1e-5 (more only where a temperature sharpens), leaf and confidences as decoded, any n."""
    student, X = a_student(kind, clusters, temperature), clusters[0][400:]
    graph = OnnxStudent(graph_bytes(student))
    for rows in (X, X[:1], X[:0]):
        P, leaf, confidences = graph.run(rows)
        own = student.probabilities(rows)
        decoded = decode(own, student.levels)
        allowed = onnx_comparison.TOLERANCE * max(1, 1 / temperature)
        np.testing.assert_allclose(P, own, atol=allowed, rtol=0)
        np.testing.assert_allclose(confidences, decoded.confidences, atol=2 * allowed, rtol=0)
        assert np.array_equal(leaf, decoded.leaf)
        assert np.all(P[:, [1, 5]] == 0)
        assert (np.diff(confidences, axis=1) <= 0).all()
        assert (confidences <= 1).all()


@pytest.mark.parametrize("familiar", [True, False])
def test_the_graph_scores_as_the_student_does(familiar: bool, clusters: Clusters) -> None:
    """Vectors of any length and of no length, single rows and none: unfamiliar ones score less where it knows which."""
    student = a_student("linear", clusters, familiar=familiar)
    graph, X = OnnxStudent(graph_bytes(student)), clusters[0][400:].copy()
    X[0], X[1] = 0, 3 * X[1]
    for rows in (X, X[1:2], X[:0]):
        own = student.answers(rows)
        np.testing.assert_allclose(graph.scores(rows), own.scores, atol=1e-4, rtol=0)
        assert (own.familiarity is not None) == familiar
    told = student.answers(X)
    assert familiar == bool((np.abs(told.scores - told.confidences) > 0.01).any())


def test_the_folder_serves_a_program_without_this_package(clusters: Clusters, tmp_path: Path) -> None:
    """The page's own program, run with onnxruntime and numpy alone, answers exactly what the policy lets through."""
    student, X = a_student("ensemble", clusters, familiar=True), clusters[0][400:]
    policy = {"thresholds": THRESHOLDS, "sentence": "a promise", "target_error": 0.05}
    done = export_onnx(student, tmp_path / "out", X, model_version="7", policy=policy)
    assert set(done.files) == {p.name for p in (tmp_path / "out").iterdir()}
    assert (done.model_version, done.student, done.int8) == ("7", "ensemble", None)
    assert done.float32.rows + done.float32.left_out == len(X) + onnx_comparison.DRAWN_ROWS
    assert done.float32.largest <= 2e-5
    assert done.float32.same_answer == 1
    labels = json.loads((tmp_path / "out" / "labels.json").read_text(encoding="utf-8"))
    assert labels["thresholds"] == [0.7, 0.55]
    assert labels["leaves"] == list(TAXONOMY.leaves)
    assert labels["columns"][3] == ["short", None]
    assert labels["reads"]["encoder"]["prefix"] == "passage: "
    assert labels["promise"] == {"sentence": "a promise", "target_error": 0.05}

    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert program is not None
    assert set(re.findall(r"^(?:import|from) (\w+)", program[1], re.MULTILINE)) == {
        "json",
        "numpy",
        "onnxruntime",
    }
    assert len(ran(program[1], tmp_path / "out")) == 1
    np.save(tmp_path / "out" / "vectors.npy", X)
    on_ours = re.sub(r"^vectors = .*$", 'vectors = np.load("vectors.npy")', program[1], flags=re.MULTILINE)
    said = [line.split("\t") for line in ran(on_ours, tmp_path / "out")]
    own = student.answers(X)
    never = np.array([label == TAXONOMY.other for label in own.labels])
    sure = accepts(own.scores, (0.7, 0.55), never)
    assert (sure != accepts(own.confidences, (0.7, 0.55), never)).any()
    assert 0.2 < sure.mean() < 1
    wanted = np.where(sure, own.labels, "ask the teacher").tolist()
    assert [name for name, _ in said] == wanted


def ran(program: str, folder: Path) -> list[str]:
    """What a program prints in a folder; this package is out of its reach."""
    blocked = "import sys\nsys.modules['tasks'] = sys.modules['torch'] = None\n"
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", blocked + program], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_nothing_certified_answers_nothing(clusters: Clusters, tmp_path: Path) -> None:
    """Without a policy, and with one that certifies nothing, the thresholds are null and the program defers all."""
    student = a_student("linear", clusters)
    for policy in (None, {"thresholds": None, "target_error": 0.01}):
        export_onnx(student, tmp_path, clusters[0][:5], model_version="1", policy=policy)
        assert json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))["thresholds"] is None
    program = re.search(
        r"```python\n(.*?)```", (tmp_path / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert program is not None
    (line,) = ran(program[1], tmp_path)
    assert line.startswith("ask the teacher\t")


def test_int8_is_smaller_and_says_how_far_it_is(clusters: Clusters, tmp_path: Path) -> None:
    """Written beside the exact graph, its difference measured and told, on the page too."""
    student, X = a_student("mlp", clusters), clusters[0][400:]
    done = export_onnx(student, tmp_path, X, model_version="1", policy={"thresholds": THRESHOLDS}, int8=True)
    assert done.int8 is not None
    assert 1e-5 < done.int8.largest < 0.1
    assert done.int8.mean <= done.int8.largest
    assert done.int8.same_answer > 0.95
    assert done.int8.same_decision is not None
    assert done.int8.same_decision > 0.9
    labels = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert labels["compared"]["int8"] == done.int8.as_dict()
    P, _, _ = OnnxStudent(tmp_path / "head.int8.onnx").run(X)
    assert np.abs(P - student.probabilities(X)).max() < 0.1
    assert "head.int8.onnx" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert done.files["head.int8.onnx"] < done.files["head.onnx"]


def test_a_graph_that_says_something_else_is_not_written(clusters: Clusters, tmp_path: Path) -> None:
    """A head whose own prediction changed is found out before the first file."""

    class Drifted(LinearHead):
        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return np.roll(super().predict_proba(X), 1, axis=1)

    student = a_student("linear", clusters)
    drifted = Drifted(3.0)
    vars(drifted).update(vars(student.head))
    with pytest.raises(TrainingError, match=r"differs from it by .* on \d+ items.*nothing was written"):
        export_onnx(replace(student, head=drifted), tmp_path / "out", clusters[0], model_version="1")
    assert not (tmp_path / "out").exists()


def test_what_has_no_form_in_onnx_is_named(clusters: Clusters, tmp_path: Path) -> None:
    """A kind that cannot be written is an error with its name; so is a package that is not there."""

    class Forest:
        kind = "forest"

    student = replace(a_student("linear", clusters), head=Forest(), kind="forest")
    with pytest.raises(
        TrainingError, match=r"kind `forest` has no ONNX form here.*linear, mlp, ensemble, finetuned or timm"
    ):
        export_onnx(student, tmp_path, clusters[0], model_version="1")
    with pytest.raises(ConfigError, match=r"needs no_such_package_here, which is not.*llm-flywheel\[onnx\]"):
        needs("onnx", "no_such_package_here")


def test_neighbours_that_hang_on_the_last_digit_are_left_out(clusters: Clusters, tmp_path: Path) -> None:
    """Many equal rows at the edge of the neighbours asked: any of them may vote, so these rows prove nothing."""
    X, y = clusters[0][:40].repeat(20, axis=0), PLACES[np.arange(800) % 6]
    student = Student(
        TAXONOMY, EnsembleHead(1.0, 0.5).fit(X, y, n_leaves=8, seed=0), "ensemble", "text", ENCODER
    )
    done = export_onnx(student, tmp_path, X[::20], model_version="1")
    assert done.float32.left_out >= 40


def test_an_image_student_takes_pixels(tmp_path: Path) -> None:
    """The graph normalises pixels and says what the student says of the encoded image; its program runs."""
    images, y = stripes(24)
    head = TimmStudent(pretrained=False, image_size=32, epochs=2, batch=8).fit(images, y, n_leaves=8, seed=0)
    student = Student(TAXONOMY, head, "timm", "image", EncoderSettings("pixels:8"), 0.9)
    done = export_onnx(student, tmp_path, images, model_version="1", int8=True)
    assert done.float32.rows == 24
    assert done.float32.largest <= onnx_comparison.IMAGE_TOLERANCE / 0.9
    assert done.int8 is not None
    assert done.files["head.int8.onnx"] < done.files["head.onnx"] / 2
    P, leaf, _ = OnnxStudent(tmp_path / "head.onnx").run(graph_inputs(student, images[:3]))
    np.testing.assert_allclose(P, student.probabilities(images[:3]), atol=1.2e-4)
    assert np.array_equal(leaf, student.answers(images[:3]).leaf)
    program = re.search(
        r"```python\n(.*?)```", (tmp_path / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert program is not None
    assert len(ran(program[1], tmp_path)) == 1
