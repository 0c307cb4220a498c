"""The report: one self-contained HTML page on how the wheel stands.

Lays out facts; what is read from where is `facts`' business. Everything a person or a teacher wrote (labels,
names, error texts) is escaped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from tasks.monitoring.audited import Share
from tasks.monitoring.charts import (
    confusion_uris,
    escalation_uri,
    evaluation_uris,
    interval_bar,
    tier_bar,
)
from tasks.monitoring.facts import ReportFacts
from tasks.monitoring.versions import TrainedVersion
from tasks.monitoring.wording import (
    TIERS,
    advice,
    dollars,
    headlines,
    percent,
    truth_words,
    without_teacher,
)
from tasks.taxonomy import split

if TYPE_CHECKING:
    from jinja2 import Template

SHOWN_TURNS = 24
SHOWN_RUNS = 20
SHOWN_VERSIONS = 12
SHOWN_PAIRS = 12


def render_report(facts: ReportFacts) -> str:
    """The page as HTML, without any reference to anything outside it."""
    shown = facts.shown
    policy = shown.policy if shown else None
    lowest = _lowest(shown)
    worst = min(1.0, max([2 * facts.target_error, *(tier.wrong.high for tier in facts.audited.tiers)]))
    return _template().render(
        facts=facts,
        shown=shown,
        policy=policy,
        agreement_only=policy is not None and policy.against == "teacher",
        headlines=headlines(facts),
        advice=advice(facts),
        turns=list(reversed([turn for turn in facts.turns if turn.requests][-SHOWN_TURNS:])),
        tiers_seen={tier: name for tier, name in TIERS.items() if facts.tiers.get(tier)},
        accuracy_bar=lambda share: interval_bar(share, lowest, 1.0),
        accuracy_from=lowest,
        audited_bar=lambda share: interval_bar(share, 0.0, worst, facts.target_error),
        audited_to=worst,
        escalation_picture=escalation_uri(policy),
        confusion_pictures=confusion_uris(shown) if shown and shown.true else [],
        pictures=defaultdict(str, evaluation_uris(shown) if shown and shown.true else {}),
        shown_pairs=SHOWN_PAIRS,
        runs=facts.runs[:SHOWN_RUNS],
        versions=facts.versions[:SHOWN_VERSIONS],
        policies=facts.policies[:SHOWN_VERSIONS],
    )


def _lowest(shown: TrainedVersion | None) -> float:
    """Where the accuracy axes begin: a tenth below the lowest bound, so that differences can be seen."""
    shares = [
        share
        for level in (shown.accuracy if shown else ())
        for share in (level.teacher, level.before, level.after)
        if share is not None
    ]
    return max(0.0, int(10 * min((share.low for share in shares), default=0.0)) / 10)


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tasks.monitoring", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        dollars=dollars,
        when=_when,
        lasted=_lasted,
        interval=_interval,
        points=lambda share: f"{100 * share:+.1f}",
        path=_path,
        thresholds=_thresholds,
        truth_words=truth_words,
        without_teacher=without_teacher,
        tier_bar=tier_bar,
        prose=_prose,
        tier_name=lambda tier: TIERS.get(tier, tier),
    )
    return environment.get_template("report.html")


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _lasted(seconds: float | None) -> str:
    if seconds is None:
        return "running"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _interval(share: Share) -> str:
    return f"{percent(share.low)} to {percent(share.high)}"


def _prose(text: str) -> Markup:
    """Text with what stands between backticks as code; all of it escaped."""
    parts = [escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:  # a backtick without a partner, in somebody's error text: leave it as it is
        return escape(text)
    return Markup("").join(
        Markup("<code>%s</code>") % part if place % 2 else part for place, part in enumerate(parts)
    )


def _path(label: str) -> Markup:
    """A label by its last name, the names above it small below."""
    *above, name = split(label)
    if not above:
        return escape(name)
    return Markup("{}<small>{}</small>").format(name, " › ".join(above))


def _thresholds(thresholds: Mapping[str, Any] | None) -> str:
    if thresholds is None:
        return "none: nothing certified"
    return ", ".join(f"{level} {value:.3f}" for level, value in thresholds.items())
