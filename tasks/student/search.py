"""What the last full search for a student chose, and the weights that it left: kept for the next nights.

Of many rows most are those of the night before. Until the next full search the winner alone is trained, with the
settings it was given, from the weights that the search left, never from a later night's. Which rows those weights
learned, and outside which fold, is kept with them, so that no row is judged by what has seen it. Deleting the file
costs one full search.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.embedding.encoders import fingerprint
from tasks.embedding.vectors import encoder_settings
from tasks.project import Project
from tasks.student.many_rows import Starts
from tasks.whole_files import written_whole

SEARCH_EVERY_NIGHT_BELOW = 50_000
"""Of fewer rows the full search takes minutes at most, and another night's rows may well choose otherwise."""

MUCH = 0.2
"""So many more or fewer rows than the search saw, as a share of those, are other data."""

RELABELLED = 0.05
"""Where more of the rows that the search saw have another label now, the teacher, its prompt or its rules changed."""

DAY_SECONDS = 86_400.0
LEARNED = "learned"
JUDGE = "judge"
SEARCH_FILE, JUDGE_FILE = "search/student.safetensors", "search/judge.safetensors"
"""Under a project's root: of the student, and of the head that judges labels for cleaning, which no student's cleaned
labels may reach."""


@dataclass(frozen=True, eq=False)
class Search:
    """A full search.

    Attributes:
        at: when it was made, seconds since 1970.
        made_with: a hash of what it depends on but the rows.
        winner: the candidate that became the student.
        settings: what tuning chose, by candidate.
        learned: key, label, fold of the rows that its weights learned.
        starts: by kind of head.
        curve: the learning curve then, as `Curve.as_dict` gives it; None of a head that has none.
    """

    at: float
    made_with: str
    winner: str
    settings: Mapping[str, Mapping[str, Any]]
    learned: pl.DataFrame
    starts: Mapping[str, Starts] = field(default_factory=dict)
    curve: Mapping[str, Any] | None = None

    def holds(self, rows: pl.DataFrame, made_with: str, days: float, now: float) -> bool:
        """Whether these rows (key, label) need no search of their own."""
        before = self.learned.height
        if rows.height < SEARCH_EVERY_NIGHT_BELOW or abs(rows.height - before) > MUCH * before:
            return False
        both = rows.join(self.learned, on="key", how="inner", suffix="_then")
        relabelled = both.filter(pl.col("label") != pl.col("label_then")).height
        alike = made_with == self.made_with and relabelled <= RELABELLED * both.height
        return alike and 0 <= now - self.at < days * DAY_SECONDS

    def folds(self, rows: pl.DataFrame, hashed: NDArray[np.int16]) -> NDArray[np.int16]:
        """The folds of rows (key, group): known ones keep theirs, new ones follow one of their group, else `hashed`.

        So a row stays with those who did not learn it, even where the near-duplicate that named its group is new.
        """
        found = rows.select("key", "group").join(
            self.learned.select("key", "fold"), on="key", how="left", maintain_order="left"
        )
        beside = found.group_by("group").agg(pl.col("fold").min().alias("beside"))
        found = found.join(beside, on="group", how="left", maintain_order="left")
        return found.select(pl.coalesce("fold", "beside", pl.Series(hashed))).to_series().to_numpy()

    def gone(self, rows: pl.DataFrame) -> pl.DataFrame:
        """key of those learned that are no longer among the rows; as gold they would be judged by what knows them."""
        return self.learned.select("key").join(rows, on="key", how="anti")

    def in_folds(self, rows: pl.DataFrame, folds: NDArray[np.int16]) -> bool:
        """Whether its weights learned none of the rows (key) outside the fold in which it is judged now."""
        now = rows.select("key").with_columns(pl.Series("now", folds))
        both = now.join(self.learned, on="key", how="inner")
        return bool((both["now"] == both["fold"]).all())


def settings_of(project: Project) -> str:
    """A hash of all that decides a search but the rows: encoder, leaves, and the sections on student and cleaning."""
    sections = [section.model_dump_json() for section in (project.student, project.cleaning)]
    decides = [fingerprint(encoder_settings(project.encoder)), project.taxonomy.leaves, sections]
    return hashlib.blake2b(json.dumps(decides).encode(), digest_size=12).hexdigest()


def standing_search(file: Path, rows: pl.DataFrame, made_with: str, days: float, now: float) -> Search | None:
    """The search kept in a file, if it is good for these rows (key, label) still."""
    search = read_search(file)
    return search if search is not None and search.holds(rows, made_with, days, now) else None


def write_search(file: Path, search: Search) -> None:
    """Keep it, in place of the one before."""
    from safetensors.numpy import save_file

    arrays = {
        f"{kind}/{fold}/{name}": np.ascontiguousarray(array)
        for kind, starts in search.starts.items()
        for fold, weights in starts.items()
        for name, array in weights.items()
    }
    table = io.BytesIO()
    search.learned.select("key", "label", "fold").write_parquet(table)
    arrays[LEARNED] = np.frombuffer(table.getvalue(), np.uint8)
    kept = ("at", "made_with", "winner", "settings", "curve")
    facts = {name: getattr(search, name) for name in kept}
    with written_whole(file) as beside:
        save_file(arrays, beside, {"search": json.dumps(facts)})


def read_search(file: Path) -> Search | None:
    """What `write_search` kept; None where there is nothing that can be read."""
    from safetensors import SafetensorError, safe_open

    starts: dict[str, dict[int, dict[str, NDArray[Any]]]] = {}
    try:
        with safe_open(file, "numpy") as stored:
            facts = json.loads(stored.metadata()["search"])
            learned = pl.read_parquet(io.BytesIO(stored.get_tensor(LEARNED).tobytes()))
            for place in stored.keys():  # noqa: SIM118 - it is no mapping
                if place == LEARNED:
                    continue
                kind, fold, name = place.split("/")
                starts.setdefault(kind, {}).setdefault(int(fold), {})[name] = stored.get_tensor(place)
        return Search(**facts, learned=learned, starts=starts)
    except (OSError, SafetensorError, pl.exceptions.PolarsError, KeyError, ValueError, TypeError):
        return None
