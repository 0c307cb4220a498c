"""What people decided: a written label resolved or its refusal explained, and decisions made human labels.

A human label outranks the teacher for good. Knows nothing of the files that decisions come in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import polars as pl
from sqlalchemy import insert

from tasks.errors import InputError
from tasks.records import Record
from tasks.store import Store, schema
from tasks.store.labels import raw_labels, resolve
from tasks.taxonomy import Taxonomy, split, truncate

MOST_SHOWN = 20
FEW_LABELS = 5  # named in one sentence
SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Decisions:
    """What a file decides: `labels` by item key, and how many of its `rows` decide nothing.

    `empty` rows have no label, `skipped` ones a person passed over; `conflicts` says, a sentence each, on which
    items people contradict each other without a majority.
    """

    labels: Mapping[bytes, str]
    rows: int
    empty: int
    skipped: int = 0
    conflicts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reviewed(Record):
    """What an import did: `changed` and `confirmed` became human labels, `unchanged` were already.

    `overturned` tells by level, of the `reviewed` items that a machine (or history) had labelled, for how many
    the person said otherwise there. `conflicts` counts items left out because people contradict each other;
    the first of them are spelled out in `conflicting`.
    """

    rows: int
    changed: int
    confirmed: int
    unchanged: int
    empty: int
    skipped: int = 0
    conflicts: int = 0
    conflicting: tuple[str, ...] = ()
    overturned: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class LabelReader:
    """Resolves written labels, each spelling once; only leaves are taken, and nothing is guessed."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self._known: dict[str, str | None] = {}

    def read(self, *spellings: str) -> str | None:
        """The leaf that the first resolvable spelling means, or None."""
        for written in spellings:
            if written not in self._known:
                self._known[written] = self.taxonomy.resolve(written)
            if (label := self._known[written]) is not None:
                return label
        return None

    def refusal(self, written: str) -> str:
        """Why a written label is not taken, and what could be written instead."""
        inner = self._inner.resolve(written)
        if inner is not None:
            depth = len(split(inner))
            below = [leaf for leaf in self.taxonomy.leaves if truncate(leaf, depth) == inner]
            return f"{_short(written)} is not a leaf, choose one below it: {_few(below)}"
        bare = self._bare.resolve(written)
        same = [leaf for leaf in self.taxonomy.leaves if _bare_name(leaf) == bare]
        if len(same) > 1:
            return f"{_short(written)} is the name of several labels, write the whole path: {_few(same)}"
        near = self.taxonomy.nearest(written[:SHOWN_CHARACTERS])
        return f"unknown label {_short(written)}" + (f" (did you mean {near!r}?)" if near else "")

    @cached_property
    def _inner(self) -> Taxonomy:
        leaves = self.taxonomy.leaf_index
        upper = {node: None for level in self.taxonomy.nodes for node in level if node not in leaves}
        return Taxonomy(self.taxonomy.levels, tuple(upper), {})

    @cached_property
    def _bare(self) -> Taxonomy:
        return Taxonomy(("label",), tuple(dict.fromkeys(map(_bare_name, self.taxonomy.leaves))), {})


class Complaints:
    """The wrong rows of one file, the first of them explained; nothing of such a file is taken."""

    def __init__(self, file: Path, remedy: str) -> None:
        self.file, self.remedy = file, remedy
        self.count = 0
        self._told: list[tuple[str, int]] = []

    def add(self, row: int, problem: Callable[..., str], *about: object) -> None:
        """Note a wrong row (1-based); `problem(*about)` puts it into words, only for those that are shown."""
        self.count += 1
        if len(self._told) < MOST_SHOWN:
            self._told.append((problem(*about), row))

    def raise_any(self) -> None:
        """Nothing happens where no row is wrong.

        Raises:
            InputError: rows are wrong; the first 20 are listed.
        """
        if not self.count:
            return
        remedy = f"{self.remedy}; nothing was imported."
        if self.count == 1:
            problem, row = self._told[0]
            raise InputError(self.file, problem, remedy, row)
        lines = [f"row {row}: {problem}" for problem, row in self._told]
        if self.count > len(lines):
            lines.append(f"and {self.count - len(lines):,} more")
        listed = "\n  ".join(lines)
        raise InputError(self.file, f"{self.count:,} rows cannot be taken:\n  {listed}", remedy)


def keep_decisions(
    store: Store, decisions: Decisions, file: Path, levels: tuple[str, ...], run_id: int
) -> Reviewed:
    """Afterwards every decision is a human label; those that were already add nothing.

    Args:
        store: the open database.
        decisions: labels by item key.
        file: where they came from, kept with each review.
        levels: names of the levels, from the root down.
        run_id: the job's row in `runs`.
    """
    labels = raw_labels(store)
    current = {key: (label, source) for key, label, source in resolve(labels).iter_rows()}
    human = dict(labels.filter(pl.col("source") == "human").select("key", "label").iter_rows())
    fresh = {key: label for key, label in decisions.labels.items() if human.get(key) != label}
    before = {key: current.get(key, (None, None))[0] for key in fresh}
    changed = sum(before[key] != label for key, label in fresh.items())
    marks = {"run_id": run_id, "at": time.time()}
    if fresh:
        with store.begin() as connection:
            connection.execute(
                insert(schema.reviews),
                [
                    {"key": key, "final_label": label, "previous_label": before[key], "file": str(file)}
                    | marks
                    for key, label in fresh.items()
                ],
            )
            connection.execute(
                insert(schema.labels),
                [{"key": key, "label": label, "source": "human"} | marks for key, label in fresh.items()],
            )
    judged = [
        (said, label)
        for key, label in fresh.items()
        if (said := before[key]) is not None and current[key][1] != "human"
    ]
    return Reviewed(
        rows=decisions.rows,
        changed=changed,
        confirmed=len(fresh) - changed,
        unchanged=len(decisions.labels) - len(fresh),
        empty=decisions.empty,
        skipped=decisions.skipped,
        conflicts=len(decisions.conflicts),
        conflicting=decisions.conflicts[:MOST_SHOWN],
        overturned=_overturned(judged, levels),
    )


def _overturned(judged: list[tuple[str, str]], levels: tuple[str, ...]) -> dict[str, dict[str, int]]:
    return {
        level: {
            "reviewed": len(judged),
            "overturned": sum(truncate(said, depth) != truncate(label, depth) for said, label in judged),
        }
        for depth, level in enumerate(levels, start=1)
    }


def _bare_name(leaf: str) -> str:
    return " ".join(split(leaf)[-1].casefold().split())


def _few(labels: list[str]) -> str:
    more = f" and {len(labels) - FEW_LABELS} more" if len(labels) > FEW_LABELS else ""
    return ", ".join(map(repr, labels[:FEW_LABELS])) + more


def _short(written: str) -> str:
    return repr(written if len(written) <= SHOWN_CHARACTERS else written[:SHOWN_CHARACTERS] + "...")
