"""Tries everything a project file names, one row each, so that a first night does not find it out at two o'clock.

One failed check stops no other. What it writes is an empty database where there was none, and the calls to the
models that were paid for.
"""

from __future__ import annotations

from pathlib import Path

from tasks.errors import FlywheelError
from tasks.monitoring.checks_of_files import gold, items, labels, taxonomy, traffic
from tasks.monitoring.checks_of_services import database, disk_space, encoder, models, tracking
from tasks.monitoring.findings import Check, Found, NotTriedError, Trial
from tasks.project import load_project


def check_project(file: Path | str, ask_teacher: bool = True) -> list[Check]:
    """Try everything a project file names.

    Args:
        file: the project file.
        ask_teacher: whether each model is sent one real request, which costs what it costs.
    """
    try:
        project = load_project(file)
    except FlywheelError as error:
        return [failed("project file", error)]
    task = project.task
    checks = [Check("project file", True, f"{project.project}: {task.modality}s, root {project.root}")]
    found = Found(project)
    trials: list[tuple[str, Trial]] = [
        ("taxonomy", taxonomy),
        ("database", database),
        ("items", items),
        ("traffic", traffic),
        ("gold", gold),
        ("labels", labels),
        ("encoder", encoder),
        *(models(project) if ask_teacher else []),
        ("mlflow", tracking),
        ("disk space", disk_space),
    ]
    try:
        checks += [tried(name, trial, found) for name, trial in trials]
    finally:
        if found.store is not None:
            found.store.close()
    return checks


def tried(name: str, trial: Trial, found: Found) -> Check:
    """The check's row, whatever happens to it."""
    try:
        return trial(found)
    except FlywheelError as error:
        return failed(name, error)
    except NotTriedError as reason:
        return Check(name, False, f"not tried: {reason}", "", outside=True)
    except Exception as error:  # noqa: BLE001 - a diagnosis says what it met, whatever it is, and goes on
        said = (str(error).strip().splitlines() or [""])[0][:300]
        remedy = "This was not foreseen: the message above is the library's own."
        return Check(name, False, f"{type(error).__name__}: {said}", remedy, outside=True)


def failed(name: str, error: FlywheelError) -> Check:
    """A failed check in the error's own words."""
    remedy = str(getattr(error, "remedy", ""))
    detail = str(error).removesuffix(remedy).rstrip(" .")
    return Check(name, False, detail, remedy, outside=error.exit_code != 2)


def exit_code(checks: list[Check]) -> int:
    """0 if all hold, 2 if the project's own files are wrong, 1 if only something outside fails."""
    wrong = [check for check in checks if not check.ok]
    if not wrong:
        return 0
    return 1 if all(check.outside for check in wrong) else 2
