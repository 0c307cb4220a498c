"""The student as MLflow serves it: models-from-code, no pickle.

MLflow runs this file when it logs and when it loads the model; nothing else imports it. It knows the
student folder and nothing of projects, databases or flows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from tasks.embedding.encoders import load_encoder
from tasks.errors import InputError
from tasks.records import normalise
from tasks.student.package import load_student

ROWS_AT_ONCE = 4096  # however long the frame is, no more is encoded and held at once
IMAGES_AT_ONCE = 256


class StudentModel(mlflow.pyfunc.PythonModel):
    """One column `text` (or `image`, encoded bytes) in; one column a level, `confidence` and `score` out.

    The confidence is the answer's probability, the score what a policy's threshold for the deepest level is laid on: it
    is lower for items unlike those the student learned from.

    A row without content (null, or a text of which normalising leaves nothing) or with one that cannot be encoded
    has no answer: its levels are empty strings, and neither number is one, so that it clears no threshold.
    """

    def load_context(self, context: Any) -> None:
        """Load the head and its encoder."""
        self._student = load_student(Path(context.artifacts["student"]))
        self._encoder = None if self._student.reads_images else load_encoder(self._student.encoder)
        taxonomy = self._student.taxonomy
        paths = [taxonomy.to_columns(leaf) for leaf in taxonomy.leaves]
        names = [[path[level] or "" for level in taxonomy.levels] for path in paths]
        nothing = [""] * len(taxonomy.levels)
        self._names = np.array([*names, nothing], object)  # by leaf; the last row is where leaf -1 points

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answers a row of `model_input`; levels below an early end are empty strings.

        Raises:
            InputError: there is no column of that name, or an image student meets an image it cannot read.
        """
        modality = self._student.modality
        if modality not in model_input.columns:
            raise InputError(
                "the model's input",
                f"column {modality!r} is missing",
                f"It has: {', '.join(map(str, model_input.columns[:20]))}. Rename the one to classify.",
            )
        contents = model_input[modality].to_numpy(object)
        leaf = np.full(len(contents), -1)
        confidence, score = np.full(len(contents), np.nan), np.full(len(contents), np.nan)
        at_once = ROWS_AT_ONCE if modality == "text" else IMAGES_AT_ONCE
        for first in range(0, len(contents), at_once):
            some = [_read(content, modality) for content in contents[first : first + at_once]]
            there = np.array([row for row, content in enumerate(some) if content], int)
            inputs: Any = [some[row] for row in there]
            if self._encoder is not None and there.size:
                encoded = self._encoder.encode_each(inputs)
                readable = [place for place in range(len(inputs)) if place not in encoded.refused]
                there, inputs = there[readable], encoded.vectors[readable]
            if there.size:
                said = self._student.answers(inputs)
                leaf[first + there] = said.leaf
                confidence[first + there], score[first + there] = said.confidence, said.scores[:, -1]
        out = pd.DataFrame(self._names[leaf], columns=list(self._student.taxonomy.levels), dtype=str)
        out["confidence"], out["score"] = confidence, score
        return out


def _read(content: Any, modality: str) -> str | bytes:
    """The content as the router would take it; empty where there is none."""
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content) if modality == "image" else normalise(bytes(content).decode(errors="replace"))
    if content is None or content is pd.NA or content != content:  # pandas has several words for nothing
        return ""
    return normalise(str(content))


mlflow.models.set_model(StudentModel())
