"""What cleaning did, as tables for people: before and after by level, what was overwritten, fifty changes to read.

Shapes results; who shows or logs them is not its business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tasks.records import Cleaned
from tasks.student.before_after import LevelEffect

Table = Mapping[str, Sequence[Any]]


def cleaning_tables(cleaned: Cleaned, effects: Sequence[LevelEffect]) -> dict[str, Table]:
    """Columns by table name, as MLflow keeps them; a table without rows is left out.

    `cleaning_before_after.json` has a row a level: before, after, delta, each with its 95 % interval;
    `cleaning_overwritten.json` how much was overwritten, on what estimate of the noise; `cleaning_pairs.json` the pairs
    of labels most often confused; `cleaning_sample.json` changes to read.
    """
    levels = list(cleaned.levels)
    noise = [cleaned.noise.get(level, {}) for level in levels]
    found: dict[str, Table] = {
        "cleaning_before_after.json": {
            "level": [effect.level for effect in effects],
            "before": [effect.before[0] for effect in effects],
            "after": [effect.after[0] for effect in effects],
            "delta": [effect.delta[0] for effect in effects],
            "before 95 %": [_interval(effect.before) for effect in effects],
            "after 95 %": [_interval(effect.after) for effect in effects],
            "delta 95 %": [_interval(effect.delta) for effect in effects],
            "items": [effect.items for effect in effects],
        },
        "cleaning_overwritten.json": {
            "level": levels,
            "labels": [cleaned.levels[level]["labels"] for level in levels],
            "overwritten": [cleaned.levels[level]["overwritten"] for level in levels],
            "share": [cleaned.levels[level]["share"] for level in levels],
            "noise": [of.get("share") for of in noise],
            "noise from": [of.get("source") for of in noise],
            "margin": [of.get("margin") for of in noise],
        },
        "cleaning_pairs.json": {
            "given": [given for given, _, _ in cleaned.confused_pairs],
            "new": [new for _, new, _ in cleaned.confused_pairs],
            "count": [count for _, _, count in cleaned.confused_pairs],
        },
        "cleaning_sample.json": read_sample(cleaned).to_dict(as_series=False),
    }
    return {name: table for name, table in found.items() if len(next(iter(table.values()), []))}


def read_sample(cleaned: Cleaned) -> pl.DataFrame:
    """The fifty changes as text columns; empty where there are none, or the file is gone."""
    if cleaned.sample is None or not Path(cleaned.sample).exists():
        return pl.DataFrame()
    return pl.read_csv(Path(cleaned.sample).read_bytes(), infer_schema=False)


def _interval(share: tuple[float, float, float]) -> str:
    _, low, high = share
    return f"{low:.1%} to {high:.1%}" if low >= 0 else f"{low:+.1%} to {high:+.1%}"
