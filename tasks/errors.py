"""Every error the flywheel raises on purpose, in one small tree.

    FlywheelError
    ├── ConfigError          the project file or the command line is wrong           exit 2
    │   └── TaxonomyError    the taxonomy, or a label that should be in it           exit 2
    ├── InputError           a data file is wrong                                    exit 2
    ├── EncoderError         the encoder cannot be loaded or does not fit            exit 2
    ├── StoreError           the database cannot be opened, or is of another age     exit 1
    ├── CacheError           the embedding cache cannot be read or written           exit 1
    │   └── DamagedPartError   one part of it is not what this encoder wrote           exit 1
    ├── RegistryError        MLflow does not answer                                  exit 1
    ├── BusyError            another run holds the project's lease                   exit 1
    ├── TrainingError        there is nothing to train or to serve from              exit 1
    ├── StackError           a part of `flywheel up` did not come up (deployments)   exit 1
    └── TeacherError         one request to the teacher failed
        ├── TransientTeacherError   worth another try (429, 5xx, a time-out)
        ├── RefusedTeacherError     will fail the same way again (a bad answer, too long an item)
        └── FatalTeacherError       every further call fails too (wrong key, no money): exit 1

A refusal to promote and a partly labelled batch are results, not errors. The message is built here from the
attributes, and always ends with what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class FlywheelError(Exception):
    """Base of all: `exit_code` is what the command line returns for it, `transient` whether waiting may help."""

    exit_code = 1
    transient = False


class ConfigError(FlywheelError):
    """A project file or an option is wrong: `file`, `path` (dotted, inside the file), `problem`, `remedy`."""

    exit_code = 2

    def __init__(self, file: str | Path, problem: str, remedy: str, path: str = "") -> None:
        self.file, self.path, self.problem, self.remedy = Path(file), path, problem, remedy
        where = f"{file}: {path}" if path else str(file)
        super().__init__(f"{where}: {problem}. {remedy}")


class TaxonomyError(ConfigError):
    """A taxonomy file or a label that should be in it is wrong."""


class InputError(FlywheelError):
    """A data file is wrong: `file`, `row` (1-based, the header not counted; None for the whole file)."""

    exit_code = 2

    def __init__(self, file: str | Path, problem: str, remedy: str, row: int | None = None) -> None:
        self.file, self.row, self.problem, self.remedy = Path(file), row, problem, remedy
        where = f"{file}, row {row}" if row is not None else str(file)
        super().__init__(f"{where}: {problem}. {remedy}")


class EncoderError(FlywheelError):
    """The encoder `model` cannot be loaded, or what it returns does not fit."""

    exit_code = 2

    def __init__(self, model: str, problem: str, remedy: str, transient: bool = False) -> None:
        self.model, self.problem, self.remedy, self.transient = model, problem, remedy, transient
        super().__init__(f"encoder {model}: {problem}. {remedy}")


class StoreError(FlywheelError):
    """The database at `url` (its password left out) cannot be used."""

    def __init__(self, url: str, problem: str, remedy: str, transient: bool = False) -> None:
        self.url, self.problem, self.remedy, self.transient = url, problem, remedy, transient
        super().__init__(f"database {url}: {problem}. {remedy}")


class CacheError(FlywheelError):
    """The embedding cache, or one file of it at `place`, cannot be read or written."""

    def __init__(self, place: str | Path, problem: str, remedy: str, transient: bool = False) -> None:
        self.place, self.problem, self.remedy, self.transient = str(place), problem, remedy, transient
        super().__init__(f"embedding cache {place}: {problem}. {remedy}")


class DamagedPartError(CacheError):
    """One part of the cache is cut, rotten or not of this encoder: it is set aside and its items encoded anew."""

    def __init__(self, place: str | Path, problem: str) -> None:
        super().__init__(
            place,
            problem,
            "`flywheel embed --verify` sets it aside, `flywheel embed` encodes its items anew.",
        )


class RegistryError(FlywheelError):
    """MLflow at `address` (its password left out) does not answer, or its database does not."""

    transient = True

    def __init__(self, address: str, problem: str, kept: Path | None = None) -> None:
        self.address, self.problem = address, problem
        left = f" What was trained lies in {kept}: the next retrain only registers it." if kept else ""
        super().__init__(
            f"MLflow at {address} does not answer ({problem}). Is it up, and mlflow.tracking_uri right?{left}"
        )


class BusyError(FlywheelError):
    """Another run holds the project's lease."""

    def __init__(self, project: str, owner: str, since: str) -> None:
        self.project, self.owner, self.since = project, owner, since
        super().__init__(
            f"project {project} is in use by {owner} since {since}. Wait for that run to end; "
            "a run that died gives its lease up by itself after two minutes."
        )


class TrainingError(FlywheelError):
    """There is nothing to train, to calibrate or to serve from."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}. {remedy}")


class TeacherError(FlywheelError):
    """One request to the teacher failed: `error_class` (short, counted), `detail` (the provider's words)."""

    def __init__(self, error_class: str, detail: str, remedy: str = "") -> None:
        self.error_class, self.detail, self.remedy = error_class, detail, remedy
        super().__init__(f"teacher: {error_class}: {detail}" + (f". {remedy}" if remedy else ""))


class TransientTeacherError(TeacherError):
    """Worth another try; `retry_after_seconds` is what the provider asked for, `headers` are its rate limits."""

    transient = True

    def __init__(
        self,
        error_class: str,
        detail: str,
        retry_after_seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.retry_after_seconds, self.headers = retry_after_seconds, headers or {}
        super().__init__(error_class, detail)


class RefusedTeacherError(TeacherError):
    """The same request would fail the same way; the item is dead-lettered with its reason."""


class FatalTeacherError(TeacherError):
    """Every further call would fail as well; the run stops and keeps what was paid for."""
