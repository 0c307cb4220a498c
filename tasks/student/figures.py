"""Pictures of a training run: who is confused with whom, what escalating buys, whether confidence is honest.

Each returns a matplotlib Figure built through the object interface; nothing global is touched and nothing is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.student.evaluation import confused_pairs, confusion_matrix
from tasks.student.figure_frame import (
    BLUE,
    GREEN,
    GREY,
    GRID,
    INK,
    RED,
    ROW_INCHES,
    frame,
    frames,
    in_percent,
    legend_above,
    rows_of,
    shortened,
)
from tasks.student.intervals import wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.student.calibration import Reliability
    from tasks.student.thresholds import Certificate

MOST_LABELS = 24
"""A matrix of more labels than this cannot be read on a page; the most frequent mistakes are drawn instead."""

MOST_MISTAKES, ANY_MISTAKES = 25, 10
"""So many mistakes are drawn; those made once only while there are fewer than the second number."""


def confusion_figure(
    true: NDArray[np.integer], answered: NDArray[np.integer], names: Sequence[str], level: str = "label"
) -> Figure:
    """Who is taken for whom: a matrix while it can be read, the most frequent mistakes as bars beyond `MOST_LABELS`.

    Args:
        true: label indices [n].
        answered: label indices [n].
        names: one a label.
        level: for the title.
    """
    if len(names) > MOST_LABELS:
        return _mistakes(true, answered, names, level)
    return _matrix(confusion_matrix(true, answered, len(names)), names, level)


def _mistakes(
    true: NDArray[np.integer], answered: NDArray[np.integer], names: Sequence[str], level: str
) -> Figure:
    from matplotlib.ticker import MaxNLocator

    pairs, items = confused_pairs(true, answered, MOST_MISTAKES), np.bincount(true, minlength=len(names))
    pairs = [pair for place, pair in enumerate(pairs) if place < ANY_MISTAKES or pair[2] > 1]
    title = f"What is taken for what: {level} (the most frequent mistakes among {len(names)} labels)"
    figure, axes = frame(8.6, 1.5 + ROW_INCHES * max(4, len(pairs)), title)
    if not pairs:
        axes.set_axis_off()
        axes.text(
            0.5, 0.5, "no mistake among the judged items", transform=axes.transAxes, ha="center", color=GREY
        )
        return figure
    axes.barh(range(len(pairs)), [count for _, _, count in pairs], color=BLUE, height=0.62)
    for place, (row, _, count) in enumerate(pairs):
        axes.annotate(f" {count} of {items[row]}", (count, place), va="center", color=GREY, fontsize=8)
    rows_of(
        axes, [f"{shortened(names[row], 30)} → {shortened(names[column], 30)}" for row, column, _ in pairs]
    )
    axes.set_xlim(0, 1.15 * pairs[0][2])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("what it is → what the student said: items, of all that it is")
    return figure


def _matrix(counts: NDArray[np.int64], names: Sequence[str], level: str) -> Figure:
    """Rows are what an item is, columns what the student said, shades the share of the row (by its square root)."""
    part, k = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), len(names)
    side = max(5.0, 2.8 + 0.3 * k)
    figure, axes = frame(side + 0.8, side, f"What is taken for what: {level}")
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#bcd3ec", BLUE, "#153a66"])
    image = axes.imshow(part, cmap=shades, norm=PowerNorm(0.5, 0, 1), aspect="equal")
    size, short = 9, [shortened(name) for name in names]
    axes.set_xticks(
        range(k), short, rotation=90 if k > 6 else 30, ha="center" if k > 6 else "right", fontsize=size
    )
    axes.set_yticks(range(k), short, fontsize=size)
    axes.set_xticks(np.arange(k - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(k - 1) + 0.5, minor=True)
    axes.grid(False)
    axes.grid(which="minor", color=GRID, linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("the student said")
    axes.set_ylabel("it is")
    for row, column in zip(*np.nonzero(part >= 0.01), strict=True):
        dark = part[row, column] > 0.35
        axes.text(
            column,
            row,
            f"{100 * part[row, column]:.0f}",
            ha="center",
            va="center",
            fontsize=8 if k <= 12 else 7,
            color="white" if dark else INK,
        )
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, format=lambda value, _: f"{value:.0%}")
    bar.set_label("share of the row", color=GREY)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelcolor=GREY)
    return figure


def escalation_figure(certificate: Certificate, judged_by: str = "gold") -> Figure:
    """Error among the answered items against the share answered, with the bound, the target and what is certified.

    Args:
        certificate: with its curve.
        judged_by: on whose labels it was measured, for the axis.
    """
    points = [p for p in certificate.curve if p.accepted]
    coverage = [p.coverage for p in points]
    figure, axes = frame(8.2, 4.8, "How much the student may answer")
    axes.plot(coverage, [p.errors / p.accepted for p in points], color=BLUE, lw=2, label="measured error")
    axes.plot(coverage, [p.bound for p in points], color=BLUE, lw=1.2, ls=(0, (4, 2)), label="upper bound")
    axes.axhline(certificate.target_error, color=RED, lw=1.2)
    axes.annotate(
        f"target {certificate.target_error:.1%}",
        (0.5, certificate.target_error),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        color=RED,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
    if certificate.thresholds is not None:
        spot = certificate.certified_coverage, certificate.errors / max(1, certificate.accepted)
        axes.axvline(spot[0], color=GREEN, lw=1)
        axes.plot(*spot, "o", color=GREEN, ms=8, mec="white", mew=1.5, zorder=5)
        threshold = certificate.thresholds[-1]
        left = spot[0] > 0.5
        axes.annotate(
            f"certified: {spot[0]:.1%} answered\nfrom confidence {threshold:.3f}",
            (spot[0], 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(-8 if left else 8, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            color=GREEN,
            fontweight="bold",
        )
    else:
        axes.text(
            0.02, 0.94, "nothing certified", transform=axes.transAxes, color=RED, fontweight="bold", va="top"
        )
    rates = [p.errors / p.accepted for p in points]
    top = max([4 * certificate.target_error, *(1.15 * rate for rate in rates)])
    axes.set(xlim=(0, 1.0), ylim=(0, min(1.0, top)))
    axes.set_xlabel("share of items the student answers (the rest is escalated)")
    axes.set_ylabel(f"wrong among the answered (against {judged_by})")
    in_percent(axes.xaxis, axes.yaxis)
    legend_above(axes, 2)
    return figure


def calibration_figure(levels: Mapping[str, Reliability]) -> Figure:
    """Accuracy against stated confidence in equal bins, a level each, with 95 % intervals; the diagonal is honesty.

    Args:
        levels: bins by level, see `calibration.reliability`.
    """
    several = len(levels) > 1
    figure, panels = frames(
        3.6 * len(levels) if several else 5.2,
        4.1 if several else 5.2,
        "Does confidence mean what it says?",
        len(levels),
    )
    for axes, (level, bins) in zip(panels, levels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (4, 2)))
        ends = [
            wilson(round(share * n), int(n))
            for share, n in zip(bins.accuracy.tolist(), bins.items.tolist(), strict=True)
        ]
        for x, (low, high) in zip(bins.confidence.tolist(), ends, strict=True):
            axes.plot([x, x], [low, high], color=BLUE, lw=1.2, alpha=0.5)
        axes.plot(bins.confidence, bins.accuracy, "o-", color=BLUE, lw=1.6, ms=5, mec="white", mew=0.8)
        axes.set_title(
            f"{level}: calibration error {bins.error:.1%}",
            loc="left",
            color=INK,
            fontsize=10,
            fontweight="bold",
        )
        axes.text(
            0.97,
            0.04,
            "below the line: too sure",
            transform=axes.transAxes,
            ha="right",
            color=GREY,
            fontsize=8,
        )
        lowest = max(0.0, min(float(bins.confidence.min()), *(low for low, _ in ends)) - 0.05)
        axes.set(xlim=(lowest, 1.02), ylim=(lowest, 1.02), aspect="equal")
        axes.set_xlabel(
            f"stated confidence ({int(bins.items.sum()):,} items, {len(bins.items)} equal bins)", fontsize=9
        )
        in_percent(axes.xaxis, axes.yaxis)
    panels[0].set_ylabel("share that was right")
    return figure
