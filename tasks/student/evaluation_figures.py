"""The evaluation on gold as pictures: candidates, cleaning, slices, labels, the teacher beside, the learning curve.

Each returns a matplotlib Figure of what others counted; nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.student.figure_frame import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    INK,
    RED,
    ROW_INCHES,
    SERIES,
    Bounds,
    dots,
    frame,
    in_percent,
    legend_above,
    rows_of,
    shortened,
)
from tasks.student.intervals import wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.student.before_after import LevelEffect
    from tasks.student.beside_teacher import BesideTeacher
    from tasks.student.evaluation import LevelScores
    from tasks.student.label_scores import LabelScore
    from tasks.student.learning_curve import Curve
    from tasks.student.slices import Slice


def candidates_figure(scores: Mapping[str, Sequence[LevelScores]], winner: str, judged_on: str) -> Figure:
    """Accuracy of every candidate at every level with its 95 % interval.

    Args:
        scores: by candidate, one a level.
        winner: the one that became the student.
        judged_on: on whose labels, for the axis.
    """
    levels = [level.level for level in scores[winner]]
    figure, axes = frame(8.2, 1.5 + 0.2 * len(scores) * (len(levels) + 1), "The candidates, level by level")
    for depth, level in enumerate(levels):
        shares = [_share(round(of[depth].top1 * of[depth].items), of[depth].items) for of in scores.values()]
        spread = 0.22 * (depth - (len(levels) - 1) / 2)
        dots(
            axes, [place + spread for place in range(len(shares))], shares, SERIES[depth % len(SERIES)], level
        )
    rows_of(axes, [f"{name} (the winner)" if name == winner else name for name in scores])
    axes.set_xlabel(f"share right on {judged_on}, with its 95 % interval")
    in_percent(axes.xaxis)
    legend_above(axes, len(levels))
    return figure


def cleaning_figure(effects: Sequence[LevelEffect]) -> Figure:
    """Accuracy before and after cleaning by level, on the same gold items, with 95 % intervals."""
    figure, axes = frame(8.2, 1.5 + 0.6 * len(effects), "The student before and after cleaning")
    dots(axes, [place - 0.14 for place in range(len(effects))], [of.before for of in effects], GREY, "before")
    dots(axes, [place + 0.14 for place in range(len(effects))], [of.after for of in effects], BLUE, "after")
    for place, effect in enumerate(effects):
        value, low, high = (100 * share for share in effect.delta)
        words = f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
        spot = max(effect.before[2], effect.after[2])
        axes.annotate(f"  {words}", (spot, place), va="center", color=INK, fontsize=9)
    rows_of(axes, [effect.level for effect in effects])
    low = min(min(of.before[1], of.after[1]) for of in effects)
    high = max(max(of.before[2], of.after[2]) for of in effects)
    span = (low - 0.02, high + 0.45 * (high - low) + 0.06)
    axes.set_xlim(span)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1.0001])  # beyond stand the words only
    axes.set_xlim(span)
    axes.set_xlabel(f"share right on {effects[0].items:,} gold items, with its 95 % interval")
    in_percent(axes.xaxis)
    legend_above(axes, 2)
    return figure


def slices_figure(slices: Sequence[Slice], level: str) -> Figure:
    """Accuracy on every slice with its 95 % interval; the line is accuracy on all items of that way to slice."""
    ways = list(dict.fromkeys(of.by for of in slices))
    height = 1.2 + ROW_INCHES * (len(slices) + len(ways))
    figure, axes = frame(8.2, height, f"Where it is right and where not: {level}")
    names, place = [], 0
    for way in ways:
        group = [of for of in slices if of.by == way]
        places = list(range(place + 1, place + 1 + len(group)))
        shares = [(of.accuracy, *of.interval) for of in group]
        dots(axes, places, shares)
        mean = sum(of.right for of in group) / sum(of.items for of in group)
        axes.plot([mean, mean], [place + 0.6, place + len(group) + 0.4], color=GREY, lw=1, ls=(0, (4, 2)))
        names += [way.upper(), *(f"{shortened(of.value, 30)}  ({of.items:,})" for of in group)]
        place += 1 + len(group)
    rows_of(axes, names)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        if name.isupper() and name.lower() in ways:
            tick.set_color(GREY)
            tick.set_fontsize(8)
    axes.set_xlabel("share right, with its 95 % interval (items in brackets)")
    in_percent(axes.xaxis)
    return figure


def weakest_labels_figure(scores: Sequence[LabelScore], names: Sequence[str], level: str) -> Figure:
    """Precision and recall of labels, as given; see `label_scores.weakest`.

    Args:
        scores: the labels to show, all of them with items.
        names: one a node of the level.
        level: for the title.
    """
    title = f"The {len(scores)} weakest labels: {level}"
    figure, axes = frame(8.2, 1.5 + ROW_INCHES * max(3, len(scores)), title)
    for place, score in enumerate(scores):
        ends = sorted((score.precision or 0.0, score.recall or 0.0))
        axes.plot(ends, [place, place], color=GREY, lw=1.5, alpha=0.4, zorder=1)
    for colour, kind, shape in ((BLUE, "recall", "o"), (AMBER, "precision", "D")):
        known = [(place, getattr(score, kind)) for place, score in enumerate(scores)]
        shown = [(place, value) for place, value in known if value is not None]
        axes.plot(
            [value for _, value in shown],
            [place for place, _ in shown],
            shape,
            color=colour,
            ms=6,
            mec="white",
            mew=0.8,
            ls="none",
            label=kind,
        )
    rows_of(axes, [f"{shortened(names[of.node], 34)}  ({of.items} items, F1 {of.f1:.0%})" for of in scores])
    least = min(share for of in scores for share in (of.precision, of.recall) if share is not None)
    axes.set_xlim(max(0.0, least - 0.1) - 0.03, 1.03)
    axes.set_xlabel("share; precision is missing where the label was never answered")
    in_percent(axes.xaxis)
    legend_above(axes, 2)
    return figure


def beside_teacher_figure(levels: Sequence[BesideTeacher]) -> Figure:
    """Whose mistakes there are, by level: shared with the teacher, the student's own, the teacher's alone."""
    figure, axes = frame(8.2, 1.7 + 0.5 * len(levels), "Whose mistakes are they?")
    kinds = (
        ("same", "both wrong, alike", RED),
        ("different", "both wrong, differently", "#e3a29c"),
        ("own", "only the student wrong", BLUE),
        ("gained", "only the teacher wrong", GREEN),
    )
    for place, level in enumerate(levels):
        start = 0.0
        for kind, words, colour in kinds:
            count = getattr(level, kind)
            share = count / level.items
            axes.barh(place, share, left=start, height=0.55, color=colour, label=words if not place else None)
            if count:
                axes.text(
                    start + share / 2, place, f"{count}", ha="center", va="center", color="white", fontsize=8
                )
            start += share
    rows_of(axes, [level.level for level in levels])
    axes.set_xlabel(f"share of the {levels[0].items:,} gold items that both answered (the rest: both right)")
    in_percent(axes.xaxis)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=4,
        frameon=False,
        labelcolor=INK,
        fontsize=8.5,
        handlelength=1,
    )
    return figure


def learning_curve_figure(curve: Curve) -> Figure:
    """Accuracy of a linear head on rows that taught it and on rows held out; dotted, twice as many rows."""
    figure, axes = frame(7.4, 4.4, "What more rows bring: a linear head on the same held-out rows")
    rows = [point.rows for point in curve.points]
    last = curve.points[-1]
    axes.plot(
        rows,
        [point.taught for point in curve.points],
        "o-",
        color=GREY,
        lw=1.4,
        ms=5,
        label="rows that taught it",
    )
    axes.plot(
        rows, [point.held_out for point in curve.points], "o-", color=BLUE, lw=2, ms=6, label="rows held out"
    )
    more = [last.rows, 2 * max(last.rows, curve.rows)]
    axes.plot(more, [last.held_out, last.held_out + curve.doubling], ":", color=BLUE, lw=1.6)
    axes.annotate(
        f"twice the rows:\n{100 * curve.doubling:+.1f} points",
        (more[1], last.held_out + curve.doubling),
        xytext=(0, -16),
        textcoords="offset points",
        ha="right",
        va="top",
        color=BLUE,
        fontsize=9,
    )
    axes.plot(
        [last.rows], [curve.neighbours], "D", color=AMBER, ms=7, mec="white", label="a vote of neighbours"
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks([*rows, more[1]], [f"{count:,}" for count in [*rows, more[1]]])
    axes.minorticks_off()
    axes.set_xlabel("rows that taught")
    axes.set_ylabel("share right (against labels as they came)")
    in_percent(axes.yaxis)
    legend_above(axes, 3)
    return figure


def _share(right: int, items: int) -> Bounds:
    return (right / items, *wilson(right, items))
