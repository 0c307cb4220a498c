"""What all figures of a training run share: their colours, their frame, rows of dots with intervals.

Figures are built through matplotlib's object interface; nothing global is touched and nothing is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, GREY, GRID = "#22303c", "#6b7884", "#e4e8ec"
BLUE, RED, GREEN, AMBER = "#2f6db5", "#c8443c", "#2a8a5f", "#d08a1d"
SERIES = (BLUE, AMBER, GREEN, "#7d64b3", RED, "#4a9aa8")
"""One colour a level or a kind, in this order, again from the first where there are more."""

DPI = 120
ROW_INCHES = 0.27

Bounds = tuple[float, float, float]
"""(value, low, high)."""


def frame(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """An empty figure of so many inches with one pair of axes."""
    figure, [axes] = frames(width, height, title, 1)
    return figure, axes


def frames(width: float, height: float, title: str, count: int) -> tuple[Figure, list[Axes]]:
    """The same with several pairs of axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    # over the whole figure: a small matrix under long names is narrower than its title
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=12, fontweight="bold")
    found = []
    for place in range(count):
        axes = figure.add_subplot(1, count, place + 1)
        axes.set_axisbelow(True)
        axes.grid(color=GRID, linewidth=0.8)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.tick_params(length=0, labelcolor=INK)
        axes.xaxis.label.set_color(GREY)
        axes.yaxis.label.set_color(GREY)
        found.append(axes)
    return figure, found


def in_percent(*sides: Axis) -> None:
    """Ticks of these axes as percentages of shares."""
    from matplotlib.ticker import PercentFormatter

    for side in sides:
        side.set_major_formatter(PercentFormatter(1.0, decimals=None))


def rows_of(axes: Axes, names: Sequence[str], size: float = 9) -> None:
    """One named row each, the first one on top, with a little air above and below."""
    axes.set_yticks(range(len(names)), list(names), fontsize=size)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def dots(
    axes: Axes,
    places: Sequence[float],
    shares: Sequence[Bounds],
    colour: str = BLUE,
    label: str | None = None,
) -> None:
    """A dot at each share with its interval as a line."""
    for place, (_, low, high) in zip(places, shares, strict=True):
        axes.plot([low, high], [place, place], color=colour, lw=3, alpha=0.3, solid_capstyle="butt")
    axes.plot(
        [value for value, _, _ in shares],
        places,
        "o",
        color=colour,
        ms=6,
        mec="white",
        mew=0.8,
        ls="none",
        label=label,
    )


def legend_above(axes: Axes, columns: int) -> None:
    """The legend at the right end, over the axes."""
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, frameon=False, labelcolor=INK, fontsize=9
    )


def shortened(name: str, limit: int = 28) -> str:
    """The name, cut where it is longer."""
    return name if len(name) <= limit else name[: limit - 1] + "…"
