"""What a check says, and what earlier checks hand to later ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from tasks.project import Project
from tasks.records import Record
from tasks.store import Store
from tasks.taxonomy import Taxonomy


@dataclass(frozen=True)
class Check(Record):
    """One thing tried.

    Attributes:
        name: what.
        ok: whether it holds.
        detail: what was found.
        remedy: what to do; with `ok` it is advice.
        outside: whether a failure lies outside the project's files (a teacher, a database), so that trying again
            later may help.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    outside: bool = False


class NotTriedError(Exception):
    """A check could not be made because an earlier one failed, which says the reason itself."""


@dataclass
class Found:
    """What earlier checks found and later ones need: `item` is one row of key, text, image."""

    project: Project
    taxonomy: Taxonomy | None = None
    store: Store | None = None
    keys: pl.DataFrame | None = None
    item: pl.DataFrame | None = None
    dimension: int = 0

    def labels(self) -> Taxonomy:
        """The label tree.

        Raises:
            NotTriedError: it could not be read.
        """
        if self.taxonomy is None:
            raise NotTriedError("needs the taxonomy")
        return self.taxonomy

    def opened(self) -> Store:
        """The database.

        Raises:
            NotTriedError: it could not be opened.
        """
        if self.store is None:
            raise NotTriedError("needs the database")
        return self.store

    def first_item(self) -> pl.DataFrame:
        """One row.

        Raises:
            NotTriedError: no item could be read.
        """
        if self.item is None:
            raise NotTriedError("needs a readable item")
        return self.item


Trial = Callable[[Found], Check]
