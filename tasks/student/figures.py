"""The three pictures of a training run: who is confused with whom, what escalating buys, whether confidence is honest.

Each returns a matplotlib Figure built through the object interface; nothing global is touched and nothing is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.student.evaluation import confusion_matrix
from tasks.student.intervals import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tasks.student.calibration import Reliability
    from tasks.student.thresholds import Certificate

INK, GREY, GRID = "#22303c", "#7b8794", "#e4e8ec"
BLUE, RED, GREEN = "#2f6db5", "#c8443c", "#2a8a5f"
MOST_LABELS = 40
"""A confusion matrix of more labels than this cannot be read; it then shows the most confused ones."""

DPI = 120


def confusion_figure(
    true: NDArray[np.integer], answered: NDArray[np.integer], names: Sequence[str], level: str = "label"
) -> Figure:
    """Rows are what an item is, columns what the student said, shades the share of the row (by its square root).

    With more than `MOST_LABELS` labels, those with the most mistakes in their rows and columns are shown.

    Args:
        true: label indices [n].
        answered: label indices [n].
        names: one a label.
        level: for the title.
    """
    counts = confusion_matrix(true, answered, len(names))
    shown = np.arange(len(names))
    title = f"What is confused with what: {level}"
    if len(names) > MOST_LABELS:
        mistakes = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
        shown = np.sort(np.argsort(-mistakes, kind="stable")[:MOST_LABELS])
        title += f" (the {MOST_LABELS} most confused of {len(names)} labels)"
    shares = counts[shown] / np.maximum(counts[shown].sum(axis=1, keepdims=True), 1)
    part, k = shares[:, shown], len(shown)
    side = max(5.0, 2.6 + 0.24 * k)
    figure, axes = _figure(side + 0.8, side, title)
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#bcd3ec", BLUE, "#153a66"])
    image = axes.imshow(part, cmap=shades, norm=PowerNorm(0.5, 0, 1), aspect="equal")
    size = 9 if k <= 12 else 7
    short = [_shortened(names[i]) for i in shown.tolist()]
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
    if k <= 20:
        for row, column in zip(*np.nonzero(part >= 0.01), strict=True):
            dark = part[row, column] > 0.35
            axes.text(
                column,
                row,
                f"{part[row, column]:.0%}",
                ha="center",
                va="center",
                fontsize=size - 1 if k <= 12 else 5.5,
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
    figure, axes = _figure(8.2, 4.8, "How much the student may answer")
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
    _percent(axes)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, labelcolor=INK)
    return figure


def reliability_figure(bins: Reliability, title: str = "Does confidence mean what it says?") -> Figure:
    """Accuracy against stated confidence in bins of equal mass, with 95 % intervals; the diagonal is honesty.

    Args:
        bins: see `calibration.reliability`.
        title: in plain words.
    """
    figure, axes = _figure(5.6, 5.6, title)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (4, 2)))
    ends = [
        wilson(round(share * n), int(n))
        for share, n in zip(bins.accuracy.tolist(), bins.items.tolist(), strict=True)
    ]
    for x, (low, high) in zip(bins.confidence.tolist(), ends, strict=True):
        axes.plot([x, x], [low, high], color=BLUE, lw=1.2, alpha=0.5)
    axes.plot(bins.confidence, bins.accuracy, "o-", color=BLUE, lw=1.6, ms=6, mec="white", mew=1)
    axes.text(
        0.03,
        0.97,
        f"calibration error {bins.error:.1%}\n{int(bins.items.sum()):,} items in {len(bins.items)} equal bins",
        transform=axes.transAxes,
        va="top",
        color=INK,
    )
    axes.text(
        0.97, 0.05, "below the line: too sure of itself", transform=axes.transAxes, ha="right", color=GREY
    )
    lowest = max(0.0, min(float(bins.confidence.min()), *(low for low, _ in ends)) - 0.05)
    axes.set(xlim=(lowest, 1.01), ylim=(lowest, 1.01), aspect="equal")
    axes.set_xlabel("stated confidence")
    axes.set_ylabel("share that was right")
    _percent(axes)
    return figure


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # over the whole figure: a small matrix under long names is narrower than its title
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
    return figure, axes


def _percent(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _shortened(name: str, limit: int = 28) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
