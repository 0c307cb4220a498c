"""What the report says about cleaning: before and after by level, the noise behind it, changes a person can read.

Reads the facts that a retrain left and the sample beside its labels; draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

Bounds = tuple[float, float, float]

METHODS = {
    "cross_fitted": "a student and neighbours that never saw the label",
    "cleanlab": "cleanlab, on probabilities of a student that never saw the label",
    "resubstitution": "a student that had seen the label (the first recipe)",
}
MODES = {
    "relabel": "overwritten",
    "drop": "left out of training",
    "reweight": "learned with both labels, weighted by the evidence",
    "re-ask": "asked about again, and two of three decided",
}
SOURCES = {
    "gold": "counted on gold",
    "passes": "from passes that differ",
    "out_of_fold": "estimated out of fold",
    "twins": "estimated out of fold, and by twins that differ",
    "given": "given",
}


@dataclass(frozen=True)
class EffectLine:
    """One level: accuracy before and after cleaning and the difference, each with its 95 % interval."""

    level: str
    items: int
    before: Bounds
    after: Bounds
    delta: Bounds


@dataclass(frozen=True)
class NoiseLine:
    """One level: the share of wrong labels, how that is known, and the margin it gives; 1 overwrites nothing."""

    level: str
    share: float
    source: str
    margin: float


@dataclass(frozen=True)
class CleaningReport:
    """All of it; empty where a retrain of an earlier version left nothing.

    `sample` has id, text, given_label, new_label, done, level, confidence, why. `asked_again` counts second answers.
    """

    found_by: str = ""
    contradicted_are: str = ""
    effects: tuple[EffectLine, ...] = ()
    noise: tuple[NoiseLine, ...] = ()
    sample: tuple[Mapping[str, str | None], ...] = ()
    dropped: int = 0
    reweighted: int = 0
    asked_again: Mapping[str, int] | None = None

    @property
    def untouched(self) -> bool:
        """Whether no label that may be overwritten looks wrong at any level (or there is none of them)."""
        return bool(self.noise) and all(line.share == 0 and line.margin >= 1 for line in self.noise)


def cleaning_report(facts: Mapping[str, Any]) -> CleaningReport:
    """What the facts of a retrain say about its cleaning."""
    cleaning = facts["cleaning"]
    return CleaningReport(
        found_by=METHODS.get(cleaning.get("method", ""), ""),
        contradicted_are=MODES.get(cleaning.get("mode", ""), ""),
        effects=tuple(
            EffectLine(
                line["level"],
                line["items"],
                _bounds(line["before"]),
                _bounds(line["after"]),
                _bounds(line["delta"]),
            )
            for line in facts.get("cleaning_effect", ())
        ),
        noise=tuple(
            NoiseLine(level, of["share"], SOURCES.get(of["source"], of["source"]), of["margin"])
            for level, of in cleaning.get("noise", {}).items()
        ),
        sample=_read(cleaning.get("sample")),
        dropped=cleaning.get("dropped", 0),
        reweighted=cleaning.get("reweighted", 0),
        asked_again=cleaning.get("asked_again") or None,
    )


def _bounds(said: Any) -> Bounds:
    value, low, high = said
    return value, low, high


def _read(file: str | None) -> tuple[Mapping[str, str | None], ...]:
    """The changes in the file; none where it is gone or cannot be read, which the report survives."""
    if file is None:
        return ()
    try:
        return tuple(pl.read_csv(Path(file).read_bytes(), infer_schema=False).iter_rows(named=True))
    except (OSError, pl.exceptions.PolarsError):
        return ()
