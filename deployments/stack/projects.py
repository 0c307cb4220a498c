"""Which files of a folder are project files, and which of those are broken.

Knows nothing of Prefect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ConfigError
from tasks.project import Project, load_project
from tasks.taxonomy import read_yaml

TELLING = {"project", "task", "source", "teacher"}


@dataclass(frozen=True)
class Found:
    """The projects of a folder, and a sentence about each file that should be one and is not."""

    projects: tuple[Project, ...]
    broken: tuple[str, ...]


def find_projects(conf: Path) -> Found:
    """Load every project file of a folder, in the order of their names; taxonomies and templates are passed over."""
    projects: dict[str, Project] = {}
    broken = []
    for file in project_files(conf):
        try:
            project = load_project(file)
        except ConfigError as error:
            broken.append(str(error))
            continue
        if project.project in projects:
            first = projects[project.project].file
            broken.append(
                f"{file}: project: {project.project} is {first.name}'s name too. Give each its own."
            )
            continue
        projects[project.project] = project
    return Found(tuple(projects.values()), tuple(broken))


def project_files(conf: Path) -> Iterator[Path]:
    """The files that mean to be a project: two or more of its four main keys, or no YAML at all."""
    for file in sorted(conf.glob("*.yaml")) + sorted(conf.glob("*.yml")):
        if file.stem == "template" or file.stem.endswith((".taxonomy", "-example")) or not file.is_file():
            continue
        try:
            content, wrong = read_yaml(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            yield file  # load_project says what is wrong with it
            continue
        if wrong or (isinstance(content, dict) and len(TELLING & set(content)) > 1):
            yield file


def is_readable(conf: Path) -> bool:
    """Whether the files of the folder can be seen; not those of one that is just being replaced, say."""
    try:
        with os.scandir(conf):
            return os.access(conf, os.X_OK)
    except OSError:
        return False


def fingerprint(conf: Path) -> frozenset[tuple[str, int, int]]:
    """What changes whenever a YAML file of the folder is added, taken away or written."""
    seen = set()
    for file in [*conf.glob("*.yaml"), *conf.glob("*.yml")]:
        try:
            stat = file.stat()
        except OSError:
            continue
        seen.add((file.name, stat.st_mtime_ns, stat.st_size))
    return frozenset(seen)
