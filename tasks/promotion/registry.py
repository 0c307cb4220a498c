"""MLflow: experiments, runs, and the registry with its two aliases. The only module that talks to it.

Everything goes through explicit run ids, so that nothing strays into another run. Knows nothing of the gate.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.embedding.encoders import EncoderSettings
from tasks.errors import InputError, RegistryError, TrainingError
from tasks.student.finetuned import settle
from tasks.student.package import STUDENT_FILE, Student, load_student

CHAMPION, CHALLENGER = "champion", "challenger"
ALIAS_HISTORY, HISTORY_CHARACTERS, LINE_CHARACTERS = "alias_history", 5000, 300
"""A model's tag is VARCHAR(5000) in MLflow's databases, which PostgreSQL holds to and SQLite does not."""
CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")
LOST = (
    "Bring them back, or let another version serve: `flywheel rollback`, or `flywheel retrain` and `flywheel promote "
    "--force REASON`, since nothing is left to compare with."
)
UNAVAILABLE = "TEMPORARILY_UNAVAILABLE"
AWAY = re.compile(r"API request to \S+ failed with (exception|timeout|error code (429|5\d\d))")
"""How MLflow's client says that nobody answers, which has no code of its own."""
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "A run a retrain, named by the version that it registered; below it its candidates, and the "
    "winner trained on the labels before cleaning. Same metrics everywhere: tick runs and compare them.",
}
PIXEL = bytes.fromhex(  # a PNG of one white pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da63f8"
    "0f00010101001cb08c990000000049454e44ae426082"
)
REQUIRED = ("mlflow", "numpy", "pandas", "polars", "pyyaml", "safetensors", "threadpoolctl")
"""What loading and answering import, whatever the student: heads answer without the library that trained them."""

TEXT_MODEL = ("sentence-transformers", "torch")
READ_BY: Mapping[str, tuple[str, ...]] = {
    "hash": (),
    "pixels": ("pillow",),
    "timm": ("timm", "torch", "torchvision", "pillow"),
    "openai": ("aiohttp",),
}
"""What encoders import beside that, by the kind that their name begins with; any other is a model of texts."""


@dataclass(frozen=True)
class CandidateRun:
    """What one candidate left behind: flat parameters, metrics, files of figures by name."""

    name: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    figures: Mapping[str, Path] = field(default_factory=dict)
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
        """Log one retrain: a parent run, its candidates nested below; returns the parent's run id.

        Their names begin with the version that the winner will be, so that two retrains can be told apart.

        Raises:
            RegistryError: MLflow does not answer.
        """
        with _reaching(self.tracking_uri):
            return self._log_retrain(parent, candidates, snapshot_file, fingerprint, tables, report)

    def _log_retrain(
        self,
        parent: CandidateRun,
        candidates: Sequence[CandidateRun],
        snapshot_file: Path,
        fingerprint: str,
        tables: Mapping[str, Mapping[str, Sequence[Any]]],
        report: Mapping[str, Any],
    ) -> str:
        mlflow, version = _mlflow(self.tracking_uri), self.next_version()
        import polars as pl
        from mlflow.data.sources import LocalArtifactDatasetSource

        mlflow.set_experiment(experiment_id=self._experiment_id())
        tags = {"fingerprint": fingerprint, "model_version": version, **parent.tags}
        with mlflow.start_run(run_name=f"v{version} {parent.name}", tags=tags) as run:
            mlflow.log_params(dict(parent.parameters))
            mlflow.log_metrics(dict(parent.metrics))
            rows = pl.read_parquet(snapshot_file).select(pl.col("key").bin.encode("hex"), "label", "source")
            source = LocalArtifactDatasetSource(str(snapshot_file))
            dataset = mlflow.data.from_polars(
                rows, source=source, name="training snapshot", digest=fingerprint[:36]
            )
            mlflow.log_input(dataset, context="training")
            for file in parent.figures.values():
                mlflow.log_artifact(str(file))
            for name, table in tables.items():
                mlflow.log_table({column: list(values) for column, values in table.items()}, name)
            mlflow.log_dict(dict(report), "retrain.json")
            for candidate in candidates:
                name, below = f"v{version} {candidate.name}", {"model_version": version, **candidate.tags}
                with mlflow.start_run(run_name=name, nested=True, tags=below):
                    mlflow.log_input(dataset, context="training")
                    mlflow.log_params(dict(candidate.parameters))
                    mlflow.log_metrics(dict(candidate.metrics))
                    for file in candidate.figures.values():
                        mlflow.log_artifact(str(file))
            return str(run.info.run_id)

    def register(self, run_id: str, student: Student, description: str, tags: Mapping[str, str]) -> str:
        """Log the student under a run, register it and name it challenger; returns the version.

        Raises:
            RegistryError: MLflow does not answer.
        """
        with _reaching(self.tracking_uri):
            return self._register(run_id, student, description, tags)

    def _register(self, run_id: str, student: Student, description: str, tags: Mapping[str, str]) -> str:
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
            self.model_name,
            source=logged.model_uri,
            run_id=run_id,
            description=description,
            tags=dict(tags),
            model_id=logged.model_id,  # without it a server refuses the source
        )
        self.set_alias(CHALLENGER, version.version)
        return str(version.version)

    def run_of(self, version: str) -> str:
        """The run that a version came out of."""
        return str(self._client().get_model_version(self.model_name, version).run_id)

    def drop_runs(self, **tags: str) -> None:
        """Delete the runs with these tags, those nested too, and the models that no version was made of."""
        client, experiment = self._client(), self._experiment_id()
        wanted = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
        for run in client.search_runs([experiment], wanted):
            for model in client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'"):
                client.delete_logged_model(model.model_id)
            client.delete_run(run.info.run_id)

    def page_of_run(self, run_id: str) -> str:
        """Where a run stands in MLflow's UI, below its address and `#/`."""
        return f"experiments/{self._client().get_run(run_id).info.experiment_id}/runs/{run_id}"

    def attach(self, run_id: str, folder: Path, name: str) -> None:
        """Keep a folder's files with a run, under a name."""
        self._client().log_artifacts(run_id, str(folder), name)

    def show_with(self, version: str, file: Path, name: str) -> str | None:
        """Where a file stands in MLflow's UI, now that it is kept with a version's run; None where that run is gone."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.run_of(version)
            self._client().log_artifact(run, str(file), name)
            return f"{self.page_of_run(run)}/artifacts/{name}/{file.name}"
        except MlflowException:
            return None

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
        return [line for line in self.model_tag(ALIAS_HISTORY).split("\n") if line]

    def add_to_history(self, line: str) -> None:
        """Write what happened to the champion's alias above what happened before; the oldest go when it is full."""
        line = " ".join(line.split())
        lines = [line if len(line) <= LINE_CHARACTERS else f"{line[: LINE_CHARACTERS - 1]}…", *self.history()]
        while len(written := "\n".join(lines)) > HISTORY_CHARACTERS:
            lines.pop()
        self.tag_model(ALIAS_HISTORY, written)

    def model_tag(self, name: str) -> str:
        """A tag of the model, whichever its version; empty where there is none."""
        return str(self._client().get_registered_model(self.model_name).tags.get(name, ""))

    def tag_model(self, name: str, value: str) -> None:
        """Write a tag of the model, of at most 5,000 characters."""
        self._client().set_registered_model_tag(self.model_name, name, value)

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
            RegistryError: MLflow does not answer.
        """
        mlflow = _mlflow(self.tracking_uri)
        from mlflow.exceptions import MlflowException

        try:
            with _reaching(self.tracking_uri):
                folder = Path(mlflow.artifacts.download_artifacts(f"models:/{self.model_name}/{version}"))
            student = load_student(folder / "artifacts" / "student")
            if student.kind == "finetuned":
                return replace(student, encoder=settle(student.encoder, self.encoders_home))
            return student
        except (MlflowException, OSError, InputError) as error:
            raise TrainingError(
                f"the files of {self.model_name} version {version} cannot be fetched ({_in_a_line(error)})",
                LOST,
            ) from _chained(error)

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
                        f"the files of {model.name} version {version.version} cannot be read ({_in_a_line(error)})",
                        "Delete that version in MLflow, or bring its files back.",
                    ) from _chained(error)
                found[encoder] = None
        return list(found)

    def _client(self) -> Any:
        from mlflow import MlflowClient

        _mlflow(self.tracking_uri)
        with _reaching(self.tracking_uri):
            return _Client(MlflowClient(self.tracking_uri), self.tracking_uri)

    def _experiment_id(self) -> str:
        client = self._client()
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        # Without a location of its own a database would have ./mlruns written wherever the process stands.
        location = (
            (self.artifact_root / self.experiment).as_uri()
            if self.tracking_uri.startswith(("sqlite", "postgresql"))
            else None
        )
        return str(
            client.create_experiment(self.experiment, artifact_location=location, tags=EXPERIMENT_TAGS)
        )


class _Client:
    """MLflow's client; where nobody answers it raises a RegistryError."""

    def __init__(self, client: Any, tracking_uri: str) -> None:
        self._client, self._tracking_uri = client, tracking_uri

    def __getattr__(self, name: str) -> Any:
        return _reaching(self._tracking_uri)(getattr(self._client, name))


@contextmanager
def _reaching(tracking_uri: str) -> Iterator[None]:
    """Tells a server or a database that is away (or locked) from what is wrong with the request.

    Raises:
        RegistryError: it is away.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except (MlflowException, OperationalError, ConnectionError) as error:
        if (
            isinstance(error, MlflowException)
            and error.error_code != UNAVAILABLE
            and not AWAY.match(str(error))
        ):
            raise
        raise RegistryError(CREDENTIALS.sub("", tracking_uri), _in_a_line(error)) from _chained(error)


def _in_a_line(error: Exception) -> str:
    """The beginning of what an error says, without the password of an address in it."""
    return next(iter(CREDENTIALS.sub("", str(error)).splitlines()), "")[:LINE_CHARACTERS]


def _chained(error: Exception) -> Exception | None:
    """The error as the cause of another, which a log prints; None where a password would be printed with it."""
    return None if CREDENTIALS.search(str(error)) else error


def _mlflow(tracking_uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Against a server it prints a line a run to stdout, where --json promises one object.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
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
    """What an environment needs that only loads and asks the student, each as it is installed here."""
    kind, _, argument = student.encoder.model.partition(":")
    names = [*REQUIRED, *READ_BY.get("timm" if student.reads_images else kind, TEXT_MODEL)]
    if student.encoder.backend != "torch":  # the graph is written where there is none yet
        names += ["onnx", "onnxruntime", "onnxscript"]
    if student.kind == "gbdt":
        names.append(_distribution("xgboost-cpu", "xgboost"))
    if kind == "package":
        names.append(argument)
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
