"""The student as MLflow serves it: models-from-code, no pickle.

MLflow runs this file when it logs and when it loads the model; nothing else imports it. It knows the
student folder and nothing of projects, databases or flows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from tasks.embedding.encoders import load_encoder
from tasks.student.package import load_student


class StudentModel(mlflow.pyfunc.PythonModel):
    """One column `text` (or `image`, encoded bytes) in; one column a level and `confidence` out."""

    def load_context(self, context: Any) -> None:
        """Load the head and its encoder."""
        self._student = load_student(Path(context.artifacts["student"]))
        self._encoder = None if self._student.reads_images else load_encoder(self._student.encoder)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answers a row of `model_input`; levels below an early end are empty strings."""
        contents = list(model_input.iloc[:, 0])
        inputs = contents if self._encoder is None else self._encoder.encode(contents)
        answers = self._student.answers(inputs)
        taxonomy = self._student.taxonomy
        rows = [
            {level: name or "" for level, name in taxonomy.to_columns(label).items()}
            for label in answers.labels
        ]
        out = pd.DataFrame(rows, columns=list(taxonomy.levels), dtype=str)
        out["confidence"] = answers.confidence.astype("float64")
        return out


mlflow.models.set_model(StudentModel())
