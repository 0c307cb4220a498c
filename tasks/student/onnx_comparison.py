"""A graph run beside the student it was made of, and how far apart the two are.

Knows vectors and pixels; what difference is too large to be written is said here, what is written is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ConfigError
from tasks.records import Record
from tasks.student.ensemble import EnsembleHead
from tasks.student.neighbours import K, nearest
from tasks.student.onnx_graph import width_of
from tasks.student.package import Student, decode_answers
from tasks.student.thresholds import accepts

TOLERANCE = 1e-5
"""Calibrated probabilities of the graph and of the student differ by no more, where no temperature sharpens them;
one that does sharpens the rounding of both alike."""

IMAGE_TOLERANCE = 1e-4
"""The same of image models: dozens of layers in single precision, each computed by other code than torch's."""

NEAR_NEIGHBOURS = 1e-6
"""Two neighbours at the edge of those asked whose cosines are no further apart: rounding decides who votes."""

DRAWN_ROWS = 256
DRAWN_SEED = 0


@dataclass(frozen=True)
class Difference(Record):
    """How far the probabilities of a graph are from the student's own.

    Attributes:
        rows: compared.
        largest: of all leaves and rows.
        mean: over rows, of the largest of a row.
        same_answer: share of the rows whose leaf is the same.
        same_decision: share of the rows that the thresholds treat the same; None without thresholds.
        left_out: rows that were not compared, because their neighbours hang on the last digits.
    """

    rows: int
    largest: float
    mean: float
    same_answer: float
    same_decision: float | None
    left_out: int = 0


class OnnxStudent:
    """A graph loaded to answer: what a program without this package would run.

    Args:
        graph: the file's bytes or its path.
        threads: of one product; small ones only wait for each other.
    """

    def __init__(self, graph: bytes | Path, threads: int = 1) -> None:
        needs("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def run(self, inputs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Probabilities [n, leaves], leaf [n] and confidences [n, levels] of vectors or pixels."""
        P, leaf, confidences = self._session.run(
            ["probabilities", "leaf", "confidences"], {self._input: inputs}
        )
        return P, leaf, confidences

    def scores(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """What thresholds are laid on, float32 [n, levels]."""
        [scores] = self._session.run(["scores"], {self._input: inputs})
        return np.asarray(scores, np.float32)


def needs(*packages: str) -> None:
    """Nothing, where the packages are installed.

    Raises:
        ConfigError: one is not.
    """
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ConfigError(
            "environment",
            f"ONNX needs {' and '.join(missing)}, which {'are' if missing[1:] else 'is'} not installed",
            "pip install 'llm-flywheel[onnx]'",
        )


def graph_inputs(student: Student, inputs: NDArray[np.float32] | list[bytes]) -> NDArray[Any]:
    """What the graph takes: vectors as they are, images decoded to uint8 [n, 3, side, side]."""
    if not student.reads_images:
        return np.ascontiguousarray(inputs, np.float32)
    from tasks.student.image_pixels import decode_images

    return decode_images(list(inputs), student.head.image_size)


def compared_on(
    student: Student, inputs: NDArray[np.float32] | list[bytes]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """What the graph is asked, and what the student says about it."""
    if student.reads_images:
        return graph_inputs(student, inputs), student.probabilities(inputs)
    drawn = np.random.default_rng(DRAWN_SEED).normal(size=(DRAWN_ROWS, width_of(student.head)))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    given = np.asarray(inputs, np.float32).reshape(-1, drawn.shape[1])
    asked = np.concatenate([given, drawn.astype(np.float32)])
    return asked, student.probabilities(asked)


def clear_rows(student: Student, asked: NDArray[Any]) -> NDArray[np.bool_]:
    """bool [n], the rows whose neighbours do not hang on the last digits: see `NEAR_NEIGHBOURS`."""
    head = student.head
    if not isinstance(head, EnsembleHead) or not head.share or len(head.reference) <= K:
        return np.ones(len(asked), bool)
    similarity, _ = nearest(asked, head.reference, K + 1)
    return np.asarray(similarity[:, K - 1] - similarity[:, K] > NEAR_NEIGHBOURS)


def difference(
    student: Student,
    graph: OnnxStudent,
    asked: NDArray[Any],
    own: NDArray[np.float32],
    clear: NDArray[np.bool_],
    wanted: tuple[float, ...] | None,
) -> Difference:
    """What a graph says about the clear rows of what is asked, against the student's own probabilities."""
    P, leaf, _ = graph.run(asked[clear])
    taxonomy = student.taxonomy
    said = decode_answers(own[clear], taxonomy, student.levels)
    said = replace(said, familiarity=student.familiarity(asked[clear], said.leaf))
    apart = np.abs(P - own[clear]).max(axis=1, initial=0)
    never = np.array([label == taxonomy.other for label in taxonomy.leaves], bool)
    decided = accepts(said.scores, wanted, never[said.leaf])
    same = accepts(graph.scores(asked[clear]), wanted, never[leaf]) == decided
    if not len(apart):
        return Difference(0, 0.0, 0.0, 1.0, None, int((~clear).sum()))
    return Difference(
        rows=len(apart),
        largest=float(apart.max()),
        mean=float(apart.mean()),
        same_answer=float((leaf == said.leaf).mean()),
        same_decision=None if wanted is None else float(same.mean()),
        left_out=int((~clear).sum()),
    )


def tolerance(student: Student) -> float:
    """How far apart probabilities may be that rounding alone drives apart."""
    head = student.head
    inner = (
        min(getattr(one, "temperature", 1.0) for one in head.heads.values())
        if isinstance(head, EnsembleHead)
        else 1.0
    )
    allowed = IMAGE_TOLERANCE if student.reads_images else TOLERANCE
    for temperature in (student.temperature, head.temperature, inner):
        allowed *= max(1.0, 1 / temperature)
    return allowed
