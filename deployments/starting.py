"""Lays out and writes a new project's files: what was found in the data, and what to do next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from deployments.first_files import (
    Branch,
    guess_columns,
    label_columns_of,
    label_tree,
    project_text,
    taxonomy_text,
)
from deployments.output import shown
from tasks.errors import ConfigError
from tasks.project import load_project
from tasks.sources import expand, is_sql, read_table
from tasks.taxonomy import load_taxonomy

# For images: grey pixels serve neighbours and the linear head, a small network learns from the images themselves.
FOR_IMAGES = {
    "encoder.model": ("model", "pixels:32"),
    "student.candidates": ("candidates", ["linear", "timm"]),
}


@dataclass(frozen=True)
class Plan:
    """What init is about to write, and what it found."""

    name: str
    place: Path
    text_of_project: str
    text_of_taxonomy: str | None
    found: dict[str, Any]
    tree: Branch | None
    import_command: str | None

    @property
    def taxonomy_place(self) -> Path:
        """Beside the project file."""
        return self.place.parent / f"{self.name}.taxonomy.yaml"

    def next_steps(self) -> list[str]:
        """What to do then, as commands or sentences."""
        project = shlex.quote(str(self.place))
        steps = [f"flywheel check --project {project}"]
        if self.import_command:
            steps.append(self.import_command)
        if self.tree is None and not self.taxonomy_place.exists():
            steps.insert(0, f"write {self.taxonomy_place}: one label a line, children indented")
        if "items" not in self.found:
            steps.insert(0, f"say in {self.place} where the items are (source)")
        return steps

    def as_dict(self, written: Sequence[Path]) -> dict[str, Any]:
        """For programs."""
        return {
            "file": str(self.place),
            "taxonomy": str(self.taxonomy_place) if self.tree is not None else None,
            "written": [str(path) for path in written],
            **self.found,
            "next": self.next_steps(),
        }

    def text(self, written: Sequence[Path]) -> str:
        """For people."""
        lines = [f"wrote {' and '.join(str(path) for path in written)}"]
        if self.found:
            lines.append(shown(self.found))
        return "\n".join([*lines, "next:", *(f"  {step}" for step in self.next_steps())])


def plan_project(
    name: str,
    place: Path,
    items: str | None,
    labelled: Path | None,
    levels: list[str],
    wanted: tuple[str | None, str | None, str | None],
    encoder: str | None = None,
    teacher: tuple[str | None, str | None] = (None, None),
) -> Plan:
    """Look at the data and lay out the files; nothing is written.

    Args:
        name: of the project.
        place: of its YAML.
        items: a file, a glob or a folder; None takes `labelled`, else leaves the template's placeholder.
        labelled: a table with labels, of which the taxonomy is made.
        levels: their names, from the root down; may be empty.
        wanted: modality, id column and content column, where they are known.
        encoder: the model to write; None keeps the template's.
        teacher: its address and its model; None keeps the template's.

    Raises:
        FlywheelError: a file cannot be read, or a column can neither be found nor guessed.
    """
    values: dict[str, tuple[str, Any]] = {}
    found: dict[str, Any] = {}
    tree = import_command = None
    labels: list[str] = []
    if labelled is not None:
        expand(str(labelled), Path.cwd())  # refuses a suffix that cannot be read
        table = read_table(labelled)
        labels = label_columns_of(table, labelled, levels)
        tree = label_tree(table, labels, labelled)
        if not levels and tree.depth > 1:
            levels = [f"l{depth}" for depth in range(1, tree.depth + 1)]
        found |= {"labels": tree.leaves, "labelled_rows": tree.total - tree.stopping}
        if tree.stopping:
            found["rows_above_a_leaf"] = tree.stopping
        import_command = _import_command(place, labelled, table, labels, wanted)
    if items is not None or labelled is not None:
        source, table = _first_table(items if items is not None else str(labelled))
        values |= _source_values(place, items or str(labelled), source, table, labels, wanted, found)
    elif wanted[0] == "image":
        values |= {"task.modality": ("modality", "image"), "source.text": ("image", "image"), **FOR_IMAGES}
    if encoder is not None:
        values["encoder.model"] = ("model", encoder)
    for key, value in zip(("base_url", "model"), teacher, strict=True):
        if value is not None:
            values[f"teacher.{key}"] = (key, value)
    if levels:
        values["task.levels"] = ("levels", levels)
        found["levels"] = ", ".join(levels)
    return Plan(
        name,
        place,
        project_text(name, values),
        taxonomy_text(tree, name, str(labelled)) if tree is not None else None,
        found,
        tree,
        import_command,
    )


def _first_table(items: str) -> tuple[Path, pl.DataFrame]:
    if is_sql(items):
        remedy = "Leave --items out, and write source.items and source.query into the file."
        raise ConfigError("command line", "init looks into files, not into databases", remedy, "--items")
    file = expand(items, Path.cwd())[0]
    return file, read_table(file)


def _source_values(
    place: Path,
    items: str,
    file: Path,
    table: pl.DataFrame,
    labels: Sequence[str],
    wanted: tuple[str | None, str | None, str | None],
    found: dict[str, Any],
) -> dict[str, tuple[str, Any]]:
    modality, id_column, text_column = wanted
    columns = guess_columns(table, file, modality, id_column, text_column, labels)
    from_yaml = relative(items, place)
    found |= {"items": from_yaml, "rows": table.height, "modality": columns.modality}
    found |= {"id": columns.id or "the content itself", columns.modality: columns.content}
    values: dict[str, tuple[str, Any]] = {
        "task.modality": ("modality", columns.modality),
        "source.items": ("items", from_yaml),
        "source.id": ("id", columns.id),
        "source.text": (columns.modality, columns.content),
    }
    return values | (FOR_IMAGES if columns.modality == "image" else {})


def _import_command(
    place: Path,
    labelled: Path,
    table: pl.DataFrame,
    labels: Sequence[str],
    wanted: tuple[str | None, str | None, str | None],
) -> str | None:
    """How the labels are taken in; None for images, whose labels cannot be imported."""
    columns = guess_columns(
        table, labelled, wanted[0], _if_there(wanted[1], table), _if_there(wanted[2], table), labels
    )
    if columns.modality == "image":
        return None
    words = ["flywheel", "import-labels", str(labelled), "--project", str(place)]
    words += ["--text-column", columns.content]
    if len(labels) == 1:  # one column a level is found by the levels' names
        words += ["--label-column", labels[0]]
    return shlex.join(words)


def _if_there(column: str | None, table: pl.DataFrame) -> str | None:
    return column if column in table.columns else None


def relative(written: str, place: Path) -> str:
    """A path or pattern as it is written in a YAML at `place`: from the YAML's folder."""
    path = Path(written).expanduser()
    if path.is_absolute():
        return str(path)
    # Folders are resolved, because `..` behind a linked folder leads elsewhere; a linked file stays the link.
    return Path(os.path.relpath(path.parent.resolve() / path.name, place.parent.resolve())).as_posix()


def write(plan: Plan, force: bool) -> list[Path]:
    """Write beside, try to load, then put in place: what is written loads.

    Raises:
        ConfigError: something is there already, or what was found makes no project.
    """
    texts = {plan.place: plan.text_of_project}
    if plan.text_of_taxonomy is not None:
        texts[plan.taxonomy_place] = plan.text_of_taxonomy
    for place in texts:
        if place.exists() and not force:
            raise ConfigError(
                place, "is there already", "Choose another --out, or overwrite it with --force."
            )
    beside = {place: place.with_name(f".{place.name}.part") for place in texts}
    try:
        for place, text in texts.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            beside[place].write_text(text, encoding="utf-8")
        settings = load_project(beside[plan.place])
        if plan.text_of_taxonomy is not None:
            load_taxonomy(beside[plan.taxonomy_place], settings.task.levels, settings.task.other)
        for place, part in beside.items():
            part.replace(place)
    except ConfigError as error:
        raise ConfigError("command line", error.problem, error.remedy, error.path) from error
    except OSError as error:
        raise ConfigError(
            plan.place, f"cannot be written ({error.strerror})", "Choose another --out."
        ) from error
    finally:
        for part in beside.values():
            part.unlink(missing_ok=True)
    return list(texts)
