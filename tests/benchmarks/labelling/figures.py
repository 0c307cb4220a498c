"""What a section found, and how it is printed: rows of a table, figures against their goals, notes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
}
Cell = str | int | float | None


@dataclass(frozen=True)
class Figure:
    """A number with its goal, such as ("CPU ms a request", 1.4, "<=", 2.0); no value is a goal not reached."""

    name: str
    value: float | None
    comparison: str
    goal: float

    @property
    def reached(self) -> bool:
        """Whether the goal holds."""
        return self.value is not None and COMPARISONS[self.comparison](self.value, self.goal)


@dataclass
class Findings:
    """What one section measured, in the order in which it was measured."""

    section: str
    rows: list[dict[str, Cell]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rows": self.rows,
            "figures": [asdict(figure) | {"reached": figure.reached} for figure in self.figures],
            "notes": self.notes,
        }

    def lines(self) -> Iterator[str]:
        """The section as text."""
        yield f"== {self.section}"
        yield from _table(self.rows)
        for note in self.notes:
            yield f"   {note}"
        for figure in self.figures:
            value = "none" if figure.value is None else _shown(figure.value)
            verdict = "reached" if figure.reached else "NOT REACHED"
            yield f"-> {figure.name}: {value} (goal {figure.comparison} {_shown(figure.goal)}): {verdict}"
        yield ""


def _table(rows: list[dict[str, Cell]]) -> Iterator[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_shown(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    for line in cells:
        first, *others = (
            cell.ljust(w) if not i else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        yield "   " + "  ".join([first, *others]).rstrip()


def _shown(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else value
