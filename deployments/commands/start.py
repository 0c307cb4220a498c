"""Commands of a first day: init writes the project's files, check tries everything they name."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deployments.output import Outcome, command, shown

if TYPE_CHECKING:
    import polars as pl

    from deployments.first_files import Branch
    from tasks.monitoring.findings import Check

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# For images: grey pixels serve neighbours and the linear head, a small network learns from the images themselves.
FOR_IMAGES = {
    "encoder.model": ("model", "pixels:32"),
    "student.candidates": ("candidates", ["linear", "timm"]),
}


@click.command(name="init")
@click.argument("name")
@click.option("--items", help="The items: parquet, csv, jsonl, a glob of them, or an image folder.")
@click.option("--labelled", type=click.Path(dir_okay=False, path_type=Path), help="A table that has labels.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="By default conf/NAME.yaml.")
@click.option("--levels", default="", help="Names of the levels by comma, from the root down.")
@click.option("--text-column", help="The column that holds the item; guessed if not given.")
@click.option("--id-column", help="The column that names it; guessed if not given.")
@click.option("--modality", type=click.Choice(["text", "image"]), help="Guessed if not given.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@command(needs_project=False)
def init_command(
    name: str,
    items: str | None,
    labelled: Path | None,
    out: Path | None,
    levels: str,
    text_column: str | None,
    id_column: str | None,
    modality: str | None,
    force: bool,
) -> Outcome:
    """Write a commented project file, and the taxonomy too where there is a table with labels."""
    from tasks.errors import ConfigError

    if not NAME.fullmatch(name):
        remedy = "Use small letters, digits, - and _, at most 63."
        raise ConfigError("command line", f"{name!r} cannot name a project", remedy, "NAME")
    place = out or Path("conf") / f"{name}.yaml"
    named = [level.strip() for level in levels.split(",") if level.strip()]
    plan = _plan(name, place, items, labelled, named, (modality, id_column, text_column))
    written = _write(plan, force)
    return Outcome(plan.as_dict(written), plan.text(written))


@click.command(name="check")
@click.option("--no-teacher", is_flag=True, help="Do not send the teacher a request.")
@command()
def check_command(project: str, no_teacher: bool) -> Outcome:
    """Try everything the project file names; say what holds, and what to do about the rest.

    Each model is sent one real request about the first item. Exit code 2: the project's files are wrong; 1: only
    something outside them fails (a teacher, the database).
    """
    from tasks.monitoring.checks import check_project, exit_code

    checks = check_project(project, ask_teacher=not no_teacher)
    code = exit_code(checks)
    body = {"ok": code == 0, "checks": [check.as_dict() for check in checks]}
    return Outcome(body, render_checks(checks), code)


def render_checks(checks: Sequence[Check]) -> str:
    """A line a check with its mark, and below it what to do."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = ("!" if check.remedy else "✓") if check.ok else "✗"
        lines.append(f"{mark} {check.name:<{width}}  {check.detail}")
        if check.remedy:
            lines.append(f"  {'':<{width}}  → {check.remedy}")
    wrong = sum(not check.ok for check in checks)
    lines.append("all of it holds" if not wrong else f"{wrong} of {len(checks)} do not hold")
    return "\n".join(lines)


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


def _plan(
    name: str,
    place: Path,
    items: str | None,
    labelled: Path | None,
    levels: list[str],
    wanted: tuple[str | None, str | None, str | None],
) -> Plan:
    from deployments.first_files import label_columns_of, label_tree, project_text, taxonomy_text
    from tasks.sources import expand, read_table

    values: dict[str, tuple[str, Any]] = {}
    found: dict[str, Any] = {}
    tree = import_command = None
    labels: list[str] = []
    if labelled is not None:
        expand(str(labelled), Path.cwd())  # refuses a suffix that cannot be read
        table = read_table(labelled)
        labels = label_columns_of(table, labelled, levels)
        tree = label_tree(table, labels, labelled)
        if not levels and (tree.depth > 1 or labels != ["label"]):
            levels = [f"l{depth}" for depth in range(1, tree.depth + 1)] if tree.depth > 1 else []
        found |= {"labels": tree.leaves, "labelled_rows": tree.total - tree.stopping}
        if tree.stopping:
            found["rows_above_a_leaf"] = tree.stopping
        import_command = _import_command(place, labelled, table, labels, wanted)
    if items is not None or labelled is not None:
        source, table = _first_table(items if items is not None else str(labelled))
        values |= _source_values(place, items or str(labelled), source, table, labels, wanted, found)
    elif wanted[0] == "image":
        values |= {"task.modality": ("modality", "image"), "source.text": ("image", "image"), **FOR_IMAGES}
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
    from tasks.errors import ConfigError
    from tasks.sources import expand, is_sql, read_table

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
    from deployments.first_files import guess_columns

    modality, id_column, text_column = wanted
    columns = guess_columns(table, file, modality, id_column, text_column, labels)
    from_yaml = relative(items, place)
    found |= {"items": from_yaml, "rows": table.height, "modality": columns.modality}
    found |= {"id": columns.id, columns.modality: columns.content}
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
    from deployments.first_files import guess_columns

    columns = guess_columns(
        table, labelled, wanted[0], _if_there(wanted[1], table), _if_there(wanted[2], table), labels
    )
    if columns.modality == "image":
        return None
    words = [
        "flywheel",
        "import-labels",
        str(labelled),
        "--project",
        str(place),
        "--text-column",
        columns.content,
    ]
    for label in labels:
        words += ["--label-column", label]
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


def _write(plan: Plan, force: bool) -> list[Path]:
    """Write beside, try to load, then put in place: what is written loads.

    Raises:
        ConfigError: something is there already, or what was found makes no project.
    """
    from tasks.errors import ConfigError
    from tasks.project import load_project

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
            from tasks.taxonomy import load_taxonomy

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
