"""MLflow: experiments, runs, and the registry with its two aliases. The only module that talks to it.

Everything goes through explicit run ids, so that nothing strays into another run. Knows nothing of the gate.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.embedding.encoders import EncoderSettings
from tasks.errors import InputError, TrainingError
from tasks.student.finetuned import settle
from tasks.student.package import STUDENT_FILE, Student, load_student

CHAMPION, CHALLENGER = "champion", "challenger"
ALIAS_HISTORY, HISTORY_LINES = "alias_history", 100
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "A run a retrain, named by the version that it registered; below it its candidates, and the "
    "winner trained on the labels before cleaning. Same metrics everywhere: tick runs and compare them.",
}
PIXEL = bytes.fromhex(  # a PNG of one white pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da63f8"
    "0f00010101001cb08c990000000049454e44ae426082"
)
REQUIRED = (
    "mlflow",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    "pyyaml",
    "safetensors",
    "scikit-learn",
    "torch",
)


@dataclass(frozen=True)
class CandidateRun:
    """What one candidate left behind: flat parameters, metrics, figures by file name."""

    name: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    figures: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Registry:
    """One project's experiment and registered model at a tracking address."""

    tracking_uri: str
    experiment: str
    model_name: str
    artifact_root: Path

    @property
    def encoders_home(self) -> Path:
        """Where encoders that were trained further are kept, whichever version's they are."""
        return self.artifact_root.parent / "encoders"

    def log_retrain(
        self,
        parent: CandidateRun,
        candidates: Sequence[CandidateRun],
        snapshot_file: Path,
        fingerprint: str,
        tables: Mapping[str, Mapping[str, Sequence[Any]]],
        report: Mapping[str, Any],
    ) -> str:
        """Log one retrain: a parent run, its candidates nested below; returns the parent's run id."""
        mlflow = _mlflow(self.tracking_uri)
        import polars as pl
        from mlflow.data.sources import LocalArtifactDatasetSource

        mlflow.set_experiment(experiment_id=self._experiment_id())
        with mlflow.start_run(run_name=parent.name, tags={"fingerprint": fingerprint, **parent.tags}) as run:
            mlflow.log_params(dict(parent.parameters))
            mlflow.log_metrics(dict(parent.metrics))
            rows = pl.read_parquet(snapshot_file).select(pl.col("key").bin.encode("hex"), "label", "source")
            source = LocalArtifactDatasetSource(str(snapshot_file))
            dataset = mlflow.data.from_polars(
                rows, source=source, name="training snapshot", digest=fingerprint[:36]
            )
            mlflow.log_input(dataset, context="training")
            for name, figure in parent.figures.items():
                mlflow.log_figure(figure, name)
            for name, table in tables.items():
                mlflow.log_table({column: list(values) for column, values in table.items()}, name)
            mlflow.log_dict(dict(report), "retrain.json")
            for candidate in candidates:
                with mlflow.start_run(run_name=candidate.name, nested=True, tags=dict(candidate.tags)):
                    mlflow.log_params(dict(candidate.parameters))
                    mlflow.log_metrics(dict(candidate.metrics))
                    for name, figure in candidate.figures.items():
                        mlflow.log_figure(figure, name)
            return str(run.info.run_id)

    def register(self, run_id: str, student: Student, description: str, tags: Mapping[str, str]) -> str:
        """Log the student under a run, register it and name it challenger; returns the version."""
        mlflow = _mlflow(self.tracking_uri)
        client = self._client()
        with (
            tempfile.TemporaryDirectory() as scratch,
            mlflow.start_run(run_id=run_id),
            warnings.catch_warnings(),
        ):
            # MLflow compares the example's columns with a range, of which pandas warns.
            warnings.filterwarnings("ignore", message="Operation with range is deprecated")
            student.save(Path(scratch) / "student")
            logged = mlflow.pyfunc.log_model(
                name="student",
                python_model=str(Path(__file__).with_name("packaging.py")),
                artifacts={"student": str(Path(scratch) / "student")},
                code_paths=[str(Path(__file__).parents[1])],
                signature=_signature(student),
                input_example=_example(student),
                pip_requirements=_requirements(student),
            )
        if not client.search_registered_models(f"name = '{self.model_name}'"):
            client.create_registered_model(
                self.model_name, description=f"Students of project {self.model_name}"
            )
        version = client.create_model_version(
            self.model_name, source=logged.model_uri, run_id=run_id, description=description, tags=dict(tags)
        )
        client.set_registered_model_alias(self.model_name, CHALLENGER, version.version)
        return str(version.version)

    def page_of_run(self, run_id: str) -> str:
        """Where a run stands in MLflow's UI, below its address and `#/`."""
        return f"experiments/{self._client().get_run(run_id).info.experiment_id}/runs/{run_id}"

    def attach(self, run_id: str, folder: Path, name: str) -> None:
        """Keep a folder's files with a run, under a name."""
        self._client().log_artifacts(run_id, str(folder), name)

    def alias(self, name: str) -> str | None:
        """The version an alias points at, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client().get_model_version_by_alias(self.model_name, name).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def set_alias(self, name: str, version: str) -> None:
        """Point an alias at a version."""
        self._client().set_registered_model_alias(self.model_name, name, version)

    def drop_alias(self, name: str) -> None:
        """Take an alias away."""
        self._client().delete_registered_model_alias(self.model_name, name)

    def aliased(self) -> set[str]:
        """The versions that any alias points at, those that people set included."""
        return {
            str(version) for version in self._client().get_registered_model(self.model_name).aliases.values()
        }

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        """Write tags on a version."""
        for name, value in tags.items():
            self._client().set_model_version_tag(self.model_name, version, name, value)

    def tags(self, version: str) -> dict[str, str]:
        """The tags of a version."""
        return dict(self._client().get_model_version(self.model_name, version).tags)

    def history(self) -> list[str]:
        """What happened to the champion's alias, the newest line first."""
        written = self._client().get_registered_model(self.model_name).tags.get(ALIAS_HISTORY, "")
        return [line for line in written.split("\n") if line]

    def add_to_history(self, line: str) -> None:
        """Write what happened to the champion's alias above what happened before; the oldest lines go."""
        lines = [" ".join(line.split()), *self.history()][:HISTORY_LINES]
        self._client().set_registered_model_tag(self.model_name, ALIAS_HISTORY, "\n".join(lines))

    def delete(self, version: str) -> None:
        """Afterwards the version and the model's files are gone; its run keeps parameters, metrics and figures.

        The files go first: killed in between it leaves a version that the next call deletes, not files that nobody
        knows of.
        """
        _mlflow(self.tracking_uri)
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        client = self._client()
        model_id = client.get_model_version(self.model_name, version).source.removeprefix("models:/")
        try:
            model = client.get_logged_model(model_id)
            get_artifact_repository(model.artifact_location).delete_artifacts()
            client.delete_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        client.delete_model_version(self.model_name, version)

    def next_version(self) -> str:
        """The version that will be registered next."""
        return str(max((int(version) for version in self.versions()), default=0) + 1)

    def versions(self, **tags: str) -> list[str]:
        """All versions, or those with these tags, the oldest first."""
        wanted = [
            f"name = '{self.model_name}'",
            *(f"tags.{name} = '{value}'" for name, value in tags.items()),
        ]
        found = self._client().search_model_versions(" and ".join(wanted))
        return sorted((str(version.version) for version in found), key=int)

    def load(self, version: str) -> Student:
        """The student of a version.

        Raises:
            TrainingError: its files are gone.
        """
        mlflow = _mlflow(self.tracking_uri)
        from mlflow.exceptions import MlflowException

        try:
            folder = Path(mlflow.artifacts.download_artifacts(f"models:/{self.model_name}/{version}"))
            student = load_student(folder / "artifacts" / "student")
            if student.kind == "finetuned":
                return replace(student, encoder=settle(student.encoder, self.encoders_home))
            return student
        except (MlflowException, OSError, InputError) as error:
            raise TrainingError(
                f"the files of {self.model_name} version {version} cannot be fetched ({error})",
                "Roll back to another version, or retrain.",
            ) from error

    def encoders(self) -> list[EncoderSettings]:
        """What encodes for any version of any project's student in this registry; no head is loaded.

        Raises:
            TrainingError: the files of a version of this project are gone, so that nobody can say.
        """
        mlflow = _mlflow(self.tracking_uri)
        from mlflow.exceptions import MlflowException

        client = self._client()
        found: dict[EncoderSettings, None] = {}
        for model in client.search_registered_models():
            for version in client.search_model_versions(f"name = '{model.name}'"):
                address = f"models:/{model.name}/{version.version}/artifacts/student/{STUDENT_FILE}"
                try:
                    file = Path(mlflow.artifacts.download_artifacts(address))
                    encoder = EncoderSettings(**json.loads(file.read_text(encoding="utf-8"))["encoder"])
                except (MlflowException, OSError, ValueError, KeyError, TypeError) as error:
                    if model.name != self.model_name:
                        continue  # somebody else's model
                    raise TrainingError(
                        f"the files of {model.name} version {version.version} cannot be read ({error})",
                        "Delete that version in MLflow, or bring its files back.",
                    ) from error
                found[encoder] = None
        return list(found)

    def _client(self) -> Any:
        from mlflow import MlflowClient

        _mlflow(self.tracking_uri)
        return MlflowClient(self.tracking_uri)

    def _experiment_id(self) -> str:
        client = self._client()
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        # Without a location of its own an SQLite store would write ./mlruns wherever the process stands.
        location = (
            (self.artifact_root / self.experiment).as_uri()
            if self.tracking_uri.startswith("sqlite")
            else None
        )
        return str(
            client.create_experiment(self.experiment, artifact_location=location, tags=EXPERIMENT_TAGS)
        )


def _mlflow(tracking_uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Its loggers tell of table creation and of style on stderr at INFO; warnings about our own calls are tested away.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if tracking_uri.startswith("sqlite:///"):
        Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    import mlflow

    if mlflow.get_tracking_uri() != tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
    return mlflow


def _signature(student: Student) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    content = DataType.binary if student.modality == "image" else DataType.string
    inputs = Schema([ColSpec(content, student.modality)])
    outputs = [ColSpec(DataType.string, level) for level in student.taxonomy.levels]
    numbers = [ColSpec(DataType.double, name) for name in ("confidence", "score")]
    return ModelSignature(inputs=inputs, outputs=Schema([*outputs, *numbers]))


def _example(student: Student) -> Any:
    import pandas as pd

    return pd.DataFrame(
        {student.modality: [PIXEL if student.modality == "image" else "stainless kettle, 1.7 l"]}
    )


def _requirements(student: Student) -> list[str]:
    names = (
        [*REQUIRED, "timm", "torchvision", "pillow"]
        if student.modality == "image"
        else [*REQUIRED, "sentence-transformers"]
    )
    if student.kind == "gbdt":
        names.append(_distribution("xgboost-cpu", "xgboost"))
    if student.encoder.model.startswith("package:"):
        names.append(student.encoder.model.partition(":")[2])
    return [f"{name}=={metadata.version(name)}" for name in names]


def _distribution(*names: str) -> str:
    """The first of several builds of one package that is installed; the last where none is."""
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return name
    return names[-1]
