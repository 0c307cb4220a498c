"""The constraints file pins what was tested together, and keeps the bounds that Prefect needs."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

LINES = [
    line.strip()
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.strip() and not line.lstrip().startswith("#")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
DEPENDENCIES = [Requirement(line) for group in GROUPS for line in group]


def pinned() -> dict[str, Version]:
    return {canonicalize_name(line.split("==")[0]): Version(line.split("==")[1]) for line in LINES}


def test_every_line_is_one_exact_version() -> None:
    """A name and `==`, nothing else: no address, no range, no option, none twice."""
    wrong = [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)]
    assert wrong == []
    assert len(pinned()) == len(LINES)
    assert "://" not in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("dependency", DEPENDENCIES, ids=str)
def test_every_dependency_is_pinned_within_its_bounds(dependency: Requirement) -> None:
    """What pyproject asks for, extras included, has a pin that pyproject allows."""
    version = pinned().get(canonicalize_name(dependency.name))
    assert version is not None
    assert dependency.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize(("name", "below"), [("fastapi", "0.151"), ("sqlalchemy", "2.1")])
def test_prefects_bounds_hold(name: str, below: str) -> None:
    """From these versions on Prefect 3.8's server or its scheduler is broken: bounded there and pinned under."""
    (dependency,) = [d for d in DEPENDENCIES if canonicalize_name(d.name) == name]
    assert not dependency.specifier.contains(below)
    assert pinned()[name] < Version(below)
