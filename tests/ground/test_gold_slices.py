"""Columns of the gold file by which mistakes are counted apart: named in the project, or found by their usual names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.errors import ConfigError, InputError
from tasks.project import Project, load_project
from tasks.sources import Gold, read_gold_rows

ROWS: dict[str, list[Any]] = {
    "id": ["a", "b", "c"],
    "name": ["kettle", "knife", "hose"],
    "label": ["Kettles", "Knives", "Hoses"],
}


def gold_of(project: Project, **columns: list[Any]) -> Gold:
    pl.DataFrame(ROWS | columns).write_parquet(project.resolve("gold.parquet"))
    return read_gold_rows(project)


def test_language_and_source_are_found_without_being_named(tiny_project: Callable[..., Path]) -> None:
    """As text, an empty cell being unknown; gold itself has the columns it always has."""
    project = load_project(tiny_project())
    gold = gold_of(project, language=["en", "", None], source=[1, 2, 3], country=["x", "y", "z"])
    assert gold.slices.columns == ["key", "language", "source"]
    assert gold.slices["language"].to_list() == ["en", None, None]
    assert gold.slices["source"].to_list() == ["1", "2", "3"]
    assert gold.slices["key"].to_list() == gold.frame["key"].to_list()
    assert gold.frame.columns == ["key", "source_id", "text", "image", "label"]
    assert gold_of(project).slices.columns == ["key"]


def test_columns_that_are_named_are_read_whatever_they_are_called(tiny_project: Callable[..., Path]) -> None:
    """Even as one of gold's own columns: nothing of it is lost."""
    project = load_project(tiny_project(slices=["country", "text", "label"]))
    gold = gold_of(project, country=["x", "y", "z"], text=["1", "2", "3"], language=["en", "de", "fr"])
    assert gold.slices.columns == ["key", "country", "text", "label"]
    assert gold.slices["text"].to_list() == ["1", "2", "3"]
    assert gold.frame["text"].to_list() == ROWS["name"]
    assert gold.slices["label"].to_list() == ROWS["label"]


def test_a_named_column_that_is_missing_is_refused(tiny_project: Callable[..., Path]) -> None:
    """With the columns that there are."""
    project = load_project(tiny_project(slices=["country"]))
    with pytest.raises(InputError, match=r"'country' is missing.*slices.*It has: id, name, label"):
        gold_of(project)


@pytest.mark.parametrize("written", [["a", "a"], ["key"], "language"])
def test_wrong_slices_are_refused_with_their_place(
    tiny_project: Callable[..., Path], written: object
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_project(tiny_project(slices=written))
    assert caught.value.path == "slices"
