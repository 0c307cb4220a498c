"""A trained challenger kept as files until MLflow has it: a server that is away, or a kill, costs no second training.

Knows the folder; the shapes in it are tracking's, the talk with MLflow is the registry's.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks.cleaning.overview import cleaning_tables
from tasks.errors import InputError
from tasks.project import Project
from tasks.promotion.evaluation_tables import evaluation_tables
from tasks.promotion.registry import CandidateRun
from tasks.promotion.tracking import (
    candidate_figures,
    candidate_runs,
    figures,
    parent_run,
    retrain_facts,
    tables,
)
from tasks.records import Policy, Retrained, Snapshot
from tasks.student.challenger import Challenger
from tasks.student.finetuned import settle
from tasks.student.held_out import write_held_out
from tasks.student.package import Student, load_student

FOLDER = "unregistered"
FORMAT = 1
BODY, STUDENT, FIGURES, HELD_OUT = "challenger.json", "student", "figures", "held_out.parquet"


@dataclass(frozen=True, eq=False)
class Unregistered:
    """All that registering takes.

    Attributes:
        folder: where it lies.
        mark: the tag `trained` of its runs and its version, by which an interrupted attempt is found again.
        trained_with: the settings it rests on, as `already_trained` will compare them.
        record: what the retrain returns, but for run, version and the policy's id.
        facts: what the report draws.
        parent: the run of the retrain, its figures files of the folder.
        candidates: those below it, likewise.
        tables: of the run.
        tags: of the version.
    """

    folder: Path
    mark: str
    trained_with: str
    record: Retrained
    facts: Mapping[str, Any]
    parent: CandidateRun
    candidates: Sequence[CandidateRun]
    tables: Mapping[str, Mapping[str, Sequence[Any]]]
    tags: Mapping[str, str]

    @property
    def held_out(self) -> Path:
        """What the student said out of fold."""
        return self.folder / HELD_OUT

    def student(self, encoders_home: Path) -> Student:
        """The winner, its policy written into it; an encoder that was trained with it is put where such are kept."""
        student = load_student(self.folder / STUDENT)
        if student.kind == "finetuned":
            return replace(student, encoder=settle(student.encoder, encoders_home))
        return student

    def forget(self) -> None:
        """Afterwards the folder is gone."""
        shutil.rmtree(self.folder, ignore_errors=True)


def keep(project: Project, made: Challenger, asked_for: str, trained_with: str) -> Unregistered:
    """Write the project's folder, whole or not at all, in the place of any earlier one.

    Args:
        project: has the folder under its root.
        made: what a retrain made.
        asked_for: all that decided the training; see `kept`.
        trained_with: see `Unregistered`.
    """
    folder = project.root / FOLDER
    part = folder.with_name(f".{FOLDER}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / FIGURES).mkdir(parents=True)
    student, mark = made.student, uuid.uuid4().hex
    student.save(part / STUDENT)
    for name, figure in figures(made).items():
        figure.savefig(part / FIGURES / name)
    for place, drawn in enumerate(candidate_figures(made)):
        (part / FIGURES / str(place)).mkdir()
        for name, figure in drawn.items():
            figure.savefig(part / FIGURES / str(place) / name)
    write_held_out(part / HELD_OUT, made.settled_keys, made.trained.held_out, made.policy)
    record = Retrained(
        run_id="",
        model_version="",
        student=student.kind,
        metrics=made.metrics,
        policy=made.policy,
        snapshot=made.cleaned.snapshot,
        bottleneck=made.report.limit.sentence,
        candidates=made.candidate_metrics,
        teacher=made.teacher,
        before_cleaning=made.before_cleaning,
    )
    tags = {
        "coverage": f"{made.policy.certified_coverage:.4f}",
        "against": made.policy.against,
        "student": student.kind,
        "trained": mark,
    }
    body = {
        "format": FORMAT,
        "asked_for": asked_for,
        "mark": mark,
        "trained_with": trained_with,
        "record": record.as_dict(),
        "facts": retrain_facts(made),
        "parent": _tagged(parent_run(project, made), mark),
        "candidates": [_tagged(run, mark) for run in candidate_runs(made)],
        "tables": tables(made.trained)
        | evaluation_tables(made.trained, made.report)
        | cleaning_tables(made.cleaned, made.trained.cleaning),
        "tags": tags if made.has_gold else tags | {"verified": "unverified"},
    }
    (part / BODY).write_text(json.dumps(body, default=_plain), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return _read(folder, body)


def kept(project: Project, asked_for: str) -> Unregistered | None:
    """What waits in the project's folder, if exactly that is asked for now; None where nothing readable does.

    Args:
        project: has the folder under its root.
        asked_for: rows, cleaned labels and settings, as one string.
    """
    folder = project.root / FOLDER
    try:
        body = json.loads((folder / BODY).read_text(encoding="utf-8"))
        if (body["format"], body["asked_for"]) != (FORMAT, asked_for):
            return None
        load_student(folder / STUDENT)
        return _read(folder, body)
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None


def _read(folder: Path, body: Mapping[str, Any]) -> Unregistered:
    written = body["record"]
    record = Retrained(
        **{**written, "policy": Policy(**written["policy"]), "snapshot": Snapshot(**written["snapshot"])}
    )
    return Unregistered(
        folder,
        body["mark"],
        body["trained_with"],
        record,
        body["facts"],
        CandidateRun(**{**body["parent"], "figures": _files(folder / FIGURES)}),
        [
            CandidateRun(**{**run, "figures": _files(folder / FIGURES / str(place))})
            for place, run in enumerate(body["candidates"])
        ],
        body["tables"],
        body["tags"],
    )


def _files(folder: Path) -> dict[str, Path]:
    return {file.name: file for file in sorted(folder.glob("*.png"))}


def _tagged(run: CandidateRun, mark: str) -> dict[str, Any]:
    return asdict(replace(run, tags={**run.tags, "trained": mark}))


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's."""
    return value.item()
