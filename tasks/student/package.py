"""A trained student with everything it needs to serve, as a folder without pickle.

`student.json` (taxonomy, encoder, temperature, what was trained) beside the head's own files. Knows nothing
of registries; the same folder is what one keeps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.encoders import EncoderSettings
from tasks.errors import InputError
from tasks.student.calibration import apply_temperature
from tasks.student.familiarity import Prototypes
from tasks.student.finetuned import FinetunedHead
from tasks.student.heads import load_head
from tasks.student.levels import Levels, decode
from tasks.student.scoring import Scorer, scorer_of
from tasks.taxonomy import SEPARATOR, Taxonomy

STUDENT_FILE = "student.json"
FORMAT = 2
READABLE = (1, 2)
"""Students of format 1 keep no prototypes; a program of that time would read ours without, and answer too much."""

SUREST = np.float32(1 - 2**-24)
"""Single precision tells no confidence above this from certainty, which nothing could lower."""

ROWS_AT_ONCE = 4096


def levels_of(taxonomy: Taxonomy) -> Levels:
    """The taxonomy's levels as index arrays over its leaves."""
    maps = tuple(np.asarray(level, np.int32) for level in taxonomy.level_maps)
    return Levels(taxonomy.levels, maps, tuple(len(nodes) for nodes in taxonomy.nodes))


@dataclass(frozen=True, eq=False)
class Answers:
    """What a student says about n items.

    Attributes:
        labels: the leaf path of each item.
        leaf: int32 [n], its place among the taxonomy's leaves.
        confidences: float32 [n, levels] in [0, 1], never rising with depth: calibrated probabilities on familiar items.
        familiarity: float32 [n], above 0; see `Prototypes.familiarity`. None of a student without prototypes.
    """

    labels: list[str]
    leaf: NDArray[np.int32]
    confidences: NDArray[np.float32]
    familiarity: NDArray[np.float32] | None = None

    @property
    def confidence(self) -> NDArray[np.float32]:
        """float32 [n], the confidence of the deepest level."""
        return self.confidences[:, -1]

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """float32 [n, levels] in [0, 1], never rising with depth: what a policy's thresholds are laid on.

        The confidences, their odds multiplied by the familiarity; without one the confidences as they are.
        """
        if self.familiarity is None:
            return self.confidences
        sure = np.minimum(self.confidences, SUREST)
        # in this order of steps rounding, too, never lets a deeper level score more
        with np.errstate(divide="ignore", over="ignore"):
            against = (1 - sure) / (sure * self.familiarity[:, None])
        return (1 / (1 + against)).astype(np.float32, copy=False)

    @property
    def depths(self) -> NDArray[np.int64]:
        """int64 [n], how many names each answer's path has."""
        return np.array([label.count(SEPARATOR) + 1 for label in self.labels], np.int64)

    def take(self, rows: NDArray[np.intp]) -> Answers:
        """The answers to those items, int [k], in that order."""
        familiarity = None if self.familiarity is None else self.familiarity[rows]
        labels = [self.labels[row] for row in rows.tolist()]
        return Answers(labels, self.leaf[rows], self.confidences[rows], familiarity)


@dataclass(frozen=True, eq=False)
class Student:
    """A head (or image model) over the leaves of a taxonomy, with its calibration."""

    taxonomy: Taxonomy
    head: Any
    kind: str
    modality: str
    encoder: EncoderSettings
    temperature: float = 1.0
    about: Mapping[str, Any] = field(default_factory=dict)
    prototypes: Prototypes | None = None

    @property
    def reads_images(self) -> bool:
        """Whether the model takes image bytes instead of vectors."""
        return self.kind == "timm"

    @cached_property
    def levels(self) -> Levels:
        """The taxonomy's levels as index arrays."""
        return levels_of(self.taxonomy)

    def probabilities(self, inputs: NDArray[np.float32] | Sequence[bytes]) -> NDArray[np.float32]:
        """Calibrated leaf probabilities float32 [n, leaves] of vectors [n, d] (or of images)."""
        if not len(inputs):
            return np.zeros((0, len(self.taxonomy.leaves)), np.float32)
        return apply_temperature(self.head.predict_proba(inputs), self.temperature)

    def answers(self, inputs: NDArray[np.float32] | Sequence[bytes]) -> Answers:
        """The student's path and per-level confidence for each item; what is held beyond them does not grow with n."""
        leaf, confidences = self.score(inputs)
        return Answers(self._paths[leaf].tolist(), leaf, confidences, self.familiarity(inputs, leaf))

    def familiarity(
        self, inputs: NDArray[np.float32] | Sequence[bytes], leaf: NDArray[np.integer]
    ) -> NDArray[np.float32] | None:
        """float32 [n], of vectors [n, d] answered with those leaves; None without prototypes."""
        if self.prototypes is None or not isinstance(inputs, np.ndarray):
            return None
        return self.prototypes.familiarity(inputs, leaf)

    def score(
        self, inputs: NDArray[np.float32] | Sequence[bytes]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The leaf of each item, int32 [n], and its confidence at each level, float32 [n, levels]."""
        if self._scorer is not None and isinstance(inputs, np.ndarray):
            return self._scorer.score(inputs)
        rows = (
            ROWS_AT_ONCE if isinstance(inputs, np.ndarray) else max(1, len(inputs))
        )  # images are named by row
        leaf = np.empty(len(inputs), np.int32)
        confidences = np.empty((len(inputs), len(self.levels.names)), np.float32)
        for first in range(0, len(inputs), rows):
            here = slice(first, first + rows)
            decoded = decode(self.probabilities(inputs[here]), self.levels)
            leaf[here], confidences[here] = decoded.leaf, decoded.confidences
        return leaf, confidences

    @cached_property
    def _scorer(self) -> Scorer | None:
        return scorer_of(self.head, self.temperature, self.levels)

    @cached_property
    def _paths(self) -> NDArray[np.object_]:
        return np.array(self.taxonomy.leaves, object)

    def save(self, folder: Path) -> None:
        """Write the folder anew."""
        folder.mkdir(parents=True, exist_ok=True)
        body = {
            "format": FORMAT,
            "kind": self.kind,
            "modality": self.modality,
            "temperature": self.temperature,
            "encoder": asdict(self.encoder),
            "taxonomy": {
                "levels": self.taxonomy.levels,
                "leaves": self.taxonomy.leaves,
                "about": dict(self.taxonomy.about),
                "other": self.taxonomy.other,
            },
            "about": dict(self.about),
            "prototypes": self.prototypes is not None,
        }
        (folder / STUDENT_FILE).write_text(json.dumps(body, indent=1, ensure_ascii=False), encoding="utf-8")
        self.head.save(folder)
        if self.prototypes is not None:
            self.prototypes.save(folder)


def decode_answers(P: NDArray[np.float32], taxonomy: Taxonomy, levels: Levels) -> Answers:
    """Paths and confidences out of leaf probabilities [n, leaves]."""
    decoded = decode(P, levels)
    return Answers(
        [taxonomy.leaves[leaf] for leaf in decoded.leaf.tolist()], decoded.leaf, decoded.confidences
    )


def load_student(folder: Path) -> Student:
    """Read what `save` wrote.

    Raises:
        InputError: the folder is no student, or of a newer format.
    """
    file = folder / STUDENT_FILE
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            file, f"no readable student ({error})", "Retrain, or roll back to another version."
        ) from error
    if body.get("format") not in READABLE:
        raise InputError(
            file,
            f"is of format {body.get('format')}, this version reads up to {FORMAT}",
            "Upgrade or retrain.",
        )
    tree = body["taxonomy"]
    taxonomy = Taxonomy(tuple(tree["levels"]), tuple(tree["leaves"]), tree["about"], tree["other"])
    if body["kind"] == "timm":
        from tasks.student.timm_student import TimmStudent

        head: Any = TimmStudent.load(folder)
    else:
        head = load_head(folder)
    encoder = EncoderSettings(**body["encoder"])
    if isinstance(head, FinetunedHead):  # its encoder came along
        encoder = replace(encoder, model=str(head.encoder_folder))
    return Student(
        taxonomy,
        head,
        body["kind"],
        body["modality"],
        encoder,
        body["temperature"],
        body["about"],
        Prototypes.load(folder) if body.get("prototypes") else None,
    )
