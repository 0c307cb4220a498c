"""A registered version written for programs without this package, with the thresholds it may answer under.

Fetches the version, its policy and some items to compare on; what is written is the student room's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, TrainingError
from tasks.project import Project
from tasks.promotion.registry import CHALLENGER, CHAMPION, Registry
from tasks.promotion.tracking import registry_of
from tasks.records import Retrained
from tasks.store import Store
from tasks.store.items import newest_items
from tasks.store.policies import policy_in_force
from tasks.student.onnx_comparison import needs
from tasks.student.onnx_export import Exported, export_onnx
from tasks.student.package import Student

COMPARED_ITEMS = 500
ONNX = "onnx"
"""The folder of a run's artifacts, and the tag of a version that says what lies there."""


def export_version(
    project: Project, store: Store, version: str, folder: Path, int8: bool = False
) -> Exported:
    """Afterwards the folder holds that version's graph, labels and page; see `export_onnx`.

    Args:
        project: its settings.
        store: its open database.
        version: `champion`, `challenger` or a number.
        folder: made where it does not exist.
        int8: quantised as well.

    Raises:
        ConfigError: the extra is not installed, or there is no such version.
        TrainingError: there is no champion or challenger, no item to compare on, or the student has no ONNX form.
    """
    needs("onnx", "onnxruntime")
    registry = registry_of(project)
    number = resolve_version(registry, version)
    student, policy = registry.load(number), policy_in_force(store, number)
    inputs = compared_inputs(project, store, student)
    said = None if policy is None else policy.as_dict()
    return export_onnx(student, folder, inputs, model_version=number, policy=said, int8=int8)


def attach_onnx(registry: Registry, retrained: Retrained, student: Student, inputs: Any) -> None:
    """Afterwards a new version's graph is kept with its run; one that cannot be written has a tag that says why.

    Args:
        registry: holds the version.
        retrained: its run, its number and its policy.
        student: the version itself.
        inputs: what it was trained on, vectors or images; the first few are compared.

    Raises:
        ConfigError: the extra is not installed.
    """
    some: Any = [] if inputs is None else inputs[:COMPARED_ITEMS]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / ONNX
        version = retrained.model_version
        try:
            export_onnx(student, folder, some, model_version=version, policy=retrained.policy.as_dict())
        except TrainingError as error:
            registry.tag(version, {ONNX: str(error)[:500]})
            return
        registry.attach(retrained.run_id, folder, ONNX)
    registry.tag(version, {ONNX: "kept with the run"})


def resolve_version(registry: Registry, version: str) -> str:
    """The number behind `champion`, `challenger` or a number.

    Raises:
        TrainingError: nobody holds that place.
        ConfigError: there is no such version; the known ones are named.
    """
    if version in (CHAMPION, CHALLENGER):
        number = registry.alias(version)
        if number is None:
            raise TrainingError(
                f"there is no {version} to export", "`flywheel retrain` and `promote` make one."
            )
        return number
    known = registry.versions()
    if version not in known:
        raise ConfigError(
            "command line",
            f"there is no version {version}",
            f"Known: champion, challenger, {', '.join(known) or 'no number yet'}.",
            "--version",
        )
    return version


def compared_inputs(project: Project, store: Store, student: Student) -> Any:
    """What the student takes of the newest items: vectors float32 [n, d], or encoded images.

    Raises:
        TrainingError: there is no item.
    """
    from tasks.embedding.vectors import has_vector
    from tasks.student.samples import inputs_of

    rows = newest_items(store, COMPARED_ITEMS)
    if not rows.height:
        raise TrainingError(
            "there is no item to compare the graph on", "`flywheel embed` takes in the project's items."
        )
    inputs = inputs_of(project, student, rows)
    return list(inputs) if student.reads_images else inputs[has_vector(inputs)]
