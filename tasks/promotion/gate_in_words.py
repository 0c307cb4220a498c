"""The comparison of champion and challenger as people read it: Markdown for a page, one line a tag.

Shapes the numbers that the gate left; knows neither registry nor orchestrator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tasks.records import Promoted


def tags_in_words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """The numbers as tags of a version, a readable line each."""
    # A tag's name may hold letters, digits, spaces and few other characters.
    said = {
        re.sub(r"[^\w -]", "", f"gate {name}"): _sample_line(sample)
        for name, sample in _samples(numbers).items()
    }
    if (coverage := numbers.get("coverage")) is not None:
        said["gate coverage"] = "; ".join(
            [
                f"{coverage['champion']:.1%} to {coverage['challenger']:.1%} of {coverage['on']}, each at its own "
                "thresholds",
                *(["waived, the champion's certificate has lapsed"] if coverage["waived"] else []),
                *coverage.get("passed_over", ()),
            ]
        )
    if (latency := numbers.get("latency")) is not None:
        said["gate latency"] = (
            f"{latency['p95_ms']:.1f} ms (95th percentile), allowed {latency['most_ms']:g} ms"
        )
    return said


def comparison(outcome: Promoted) -> str:
    """The outcome in Markdown: what was decided, why, and a table of both versions on the same items."""
    verdict = "waits for a person" if outcome.waiting else "promoted" if outcome.promoted else "refused"
    against = f"version {outcome.compared_with}, the champion" if outcome.compared_with else "no champion"
    lines = [f"## Version {outcome.challenger_version} against {against}: {verdict}", ""]
    lines += [f"- {reason}" for reason in outcome.reasons]
    if rows := _rows(outcome.numbers):
        head = "| | champion | challenger | change | 95 % interval | allowed |"
        lines += ["", head, "|---|---:|---:|---:|---:|---:|", *rows]
    if any(not sample["resolves_margin"] for sample in _samples(outcome.numbers).values()):
        lines += ["", "\\* two standard errors: so few items cannot resolve the margin."]
    for name, sample in _samples(outcome.numbers).items():
        fell = ", ".join(sample["fell"]) or "none"
        lines += ["", f"Significantly worse of {sample['tested']} labels and levels of {name}: {fell}."]
    if few := outcome.numbers.get("coverage", {}).get("passed_over"):
        lines += ["", f"Coverage is not judged on so few items: {', '.join(few)}."]
    return "\n".join(lines)


def _rows(numbers: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| right on {name}, {sample['rows']:,} items | {sample['champion_accuracy']:.1%} | "
        f"{sample['challenger_accuracy']:.1%} | {_points(sample['difference'])} | {_points(sample['low'])} to "
        f"{_points(sample['high'])} | {_points(-sample['allowed'])}"
        + (" |" if sample["resolves_margin"] else " * |")
        for name, sample in _samples(numbers).items()
    ]
    if (coverage := numbers.get("coverage")) is not None:
        allowed = "waived" if coverage["waived"] else _points(-numbers["margin"])
        change = _points(coverage["challenger"] - coverage["champion"])
        rows.append(
            f"| answered of {coverage['on']} | {coverage['champion']:.1%} | {coverage['challenger']:.1%} | {change} "
            f"| | {allowed} |"
        )
    if (latency := numbers.get("latency")) is not None:
        rows.append(
            f"| one item, 95th percentile | | {latency['p95_ms']:.1f} ms | | | {latency['most_ms']:g} ms |"
        )
    return rows


def _samples(numbers: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: value for name, value in numbers.items() if isinstance(value, dict) and "rows" in value}


def _sample_line(sample: Mapping[str, Any]) -> str:
    allowed = f"allowed {_points(-sample['allowed'])}" + (
        "" if sample["resolves_margin"] else " (two standard errors)"
    )
    fell = ", ".join(sample["fell"]) or "none"
    return (
        f"{sample['rows']:,} items: {sample['champion_accuracy']:.1%} to {sample['challenger_accuracy']:.1%}, change "
        f"{_points(sample['difference'])} ({_points(sample['low'])} to {_points(sample['high'])}), {allowed}; "
        f"significantly worse of {sample['tested']} labels and levels: {fell}"
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
