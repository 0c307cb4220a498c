"""Pictures of the report: bars and intervals as small SVG, the figures of a training run as data URIs.

SVG inside the page takes its colours from the page's variables, so that it is legible in the dark; figures are
drawn on white and stand on white cards.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import fields
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

from tasks.monitoring.audited import Share
from tasks.monitoring.evaluation_shown import figures_of
from tasks.monitoring.versions import TrainedVersion
from tasks.monitoring.wording import TIERS, percent
from tasks.records import Policy
from tasks.taxonomy import split, truncate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.student.thresholds import Certificate

SVG_BYTES = 400_000
"""An SVG figure larger than this (a large confusion matrix is a path a glyph) is drawn as PNG instead."""


def tier_bar(tiers: Mapping[str, int]) -> Markup:
    """One stacked bar: the share of each tier, in the order they are tried."""
    total = sum(tiers.values())
    known = [*TIERS, *(tier for tier in tiers if tier not in TIERS)]
    shares = [(tier, tiers[tier] / total) for tier in known if total and tiers.get(tier)]
    words = ", ".join(f"{TIERS.get(tier, tier)} {percent(share)}" for tier, share in shares)
    parts, x = [], 0.0
    for tier, share in shares:
        name = escape(f"{TIERS.get(tier, tier)}: {tiers[tier]:,} ({percent(share)})")
        kind = escape(tier if tier in TIERS else "fallback")
        parts.append(
            f'<rect class="tier-{kind}" x="{100 * x:.3f}" y="0" width="{100 * share:.3f}" height="10">'
            f"<title>{name}</title></rect>"
        )
        x += share
    return Markup(
        f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{escape(words)}">'
        f"{''.join(parts)}</svg>"
    )


def interval_bar(share: Share, low: float, high: float, target: float | None = None) -> Markup:
    """A mark at the share with its 95 % interval, on a line from `low` to `high`; `target` is marked too."""

    def place(value: float) -> str:
        return f"{2 + 96 * min(1.0, max(0.0, (value - low) / (high - low))):.2f}"

    def upright(name: str, value: float, top: int, bottom: int) -> str:
        return f'<line class="{name}" x1="{place(value)}" x2="{place(value)}" y1="{top}" y2="{bottom}"/>'

    return Markup(
        '<svg class="interval" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        '<line class="axis" x1="2" x2="98" y1="6" y2="6"/>'
        f'<line class="range" x1="{place(share.low)}" x2="{place(share.high)}" y1="6" y2="6"/>'
        f"{'' if target is None else upright('target', target, 0, 12)}{upright('dot', share.value, 2, 10)}</svg>"
    )


def confusion_uris(version: TrainedVersion) -> list[tuple[str, str]]:
    """(level, data URI) of a confusion matrix a level, the deepest first."""
    from tasks.student.figures import confusion_figure

    true, answered = np.asarray(version.true, np.int64), np.asarray(version.answered, np.int64)
    pictures = []
    for depth, level in reversed(list(enumerate(version.levels, start=1))):
        cut = [truncate(leaf, depth) for leaf in version.leaves]
        nodes = {node: place for place, node in enumerate(dict.fromkeys(cut))}
        of = np.array([nodes[node] for node in cut], np.int64)
        names = [split(node)[-1] for node in nodes]
        pictures.append((level, data_uri(confusion_figure(of[true], of[answered], names, level))))
    return pictures


def escalation_uri(policy: Policy | None) -> str | None:
    """Data URI of the escalation curve of a policy; None where no point of its curve accepted anything."""
    certificate = certificate_of(policy)
    if policy is None or certificate is None or not any(point.accepted for point in certificate.curve):
        return None
    from tasks.student.figures import escalation_figure

    return data_uri(escalation_figure(certificate, policy.against))


def evaluation_uris(version: TrainedVersion) -> dict[str, str]:
    """Data URIs of the figures of `evaluation_shown.figures_of`, and of `cleaning`, those of them there are."""
    figures = figures_of(version.evaluation, version.levels)
    if "calibration" not in figures and version.reliability:  # of a version of an earlier program
        from tasks.student.calibration import Reliability
        from tasks.student.figures import calibration_figure

        bins = Reliability(*(np.asarray(column) for column in zip(*version.reliability, strict=True)))
        figures["calibration"] = calibration_figure({version.levels[-1]: bins})
    if version.cleaned.effects:
        from tasks.student.before_after import LevelEffect
        from tasks.student.evaluation_figures import cleaning_figure

        effects = [LevelEffect(**vars(line)) for line in version.cleaned.effects]
        figures["cleaning"] = cleaning_figure(effects)
    return {name: data_uri(figure) for name, figure in figures.items()}


def certificate_of(policy: Policy | None) -> Certificate | None:
    """The certificate that a policy carries; None where it was issued without one."""
    if policy is None or not policy.certificate:
        return None
    from tasks.student.thresholds import Certificate, OperatingPoint

    body = dict(policy.certificate)
    curve = tuple(
        OperatingPoint(**(dict(point) | {"thresholds": tuple(point["thresholds"])}))
        for point in body["curve"]
    )
    thresholds = None if body["thresholds"] is None else tuple(body["thresholds"])
    known = {field.name for field in fields(Certificate)}  # a policy may keep more beside it
    kept = {name: value for name, value in body.items() if name in known}
    return Certificate(**(kept | {"curve": curve, "thresholds": thresholds}))


def data_uri(figure: Figure) -> str:
    """A figure as SVG, or as PNG where that would be large."""
    stream = BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    if stream.tell() <= SVG_BYTES:
        return f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}"
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
