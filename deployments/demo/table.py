"""The demo's table: what a newcomer should understand in a minute, gains that failed to come included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deployments.demo.turn import DemoResult
from tasks.project import load_project
from tasks.student.intervals import wilson

TIER_NAMES = {
    "exact_cache": "seen before",
    "student": "student",
    "teacher": "teacher (LLM)",
    "fallback": "fallback",
}


def as_dict(result: DemoResult) -> dict[str, Any]:
    """The result as plain values, for `--json`."""
    from dataclasses import asdict

    return asdict(result)


def render(result: DemoResult) -> str:
    """The table as text."""
    levels = load_project(result.project_file).taxonomy.levels
    parts = [
        _accuracy(result, levels),
        _labels(result),
        _promise(result),
        _traffic(result),
        _cost(result),
        "Where things are\n"
        + "\n".join(f"  {name:<15} {_short(place)}" for name, place in result.places.items()),
        "Compare the runs: mlflow ui --backend-store-uri " + _short(result.places["MLflow store"]),
    ]
    return "\n\n".join(parts)


def _accuracy(result: DemoResult, levels: tuple[str, ...]) -> str:
    first, second = result.first, (result.nightly.get("retrain") or result.first)
    rows = int(first["teacher"].get("rows", 0)) or 750
    lines = [
        f"Accuracy on {rows} gold items nobody trained on (95 % intervals at the deepest level)",
        "  " + " " * 34 + "".join(f"{level:>16}" for level in levels),
    ]

    def row(name: str, metrics: dict[str, float], prefix: str = "gold.") -> str:
        values = [metrics.get(f"{prefix}{level}.top1") for level in levels]
        shown = "".join(f"{value:>16.1%}" if value is not None else f"{'-':>16}" for value in values)
        last = values[-1]
        if last is None:
            return f"  {name:<34}{shown}"
        low, high = wilson(round(last * rows), rows)
        return f"  {name:<34}{shown}   {low:.1%} to {high:.1%}"

    lines.append(row(f"teacher, one pass ({result.teacher_noise:.0%} noise)", first["teacher"]))
    lines.append(row("student, labels as they came", first["before_cleaning"]))
    lines.append(row("student, labels cleaned", first["metrics"]))
    lines.append(row("student after turn two", second["metrics"]))
    gain = first["metrics"][f"gold.{levels[-1]}.top1"] - first["before_cleaning"][f"gold.{levels[-1]}.top1"]
    if abs(gain) < 0.005:
        lines.append("  Cleaning changed the student's accuracy by less than half a point.")
    elif gain < 0:
        lines.append(f"  Cleaning did not help here: {gain:+.1%}.")
    return "\n".join(lines)


def _labels(result: DemoResult) -> str:
    labels, asked = result.labels, result.labelled
    return "\n".join(
        [
            "Labels",
            f"  asked twice: {asked['items']:,} items; the passes agreed on {_percent(asked.get('agreement'))}; "
            f"{asked['disagreed']:,} went to review, {result.reviewed:,} were reviewed "
            f"(by a simulated person who errs {result.reviewer_error:.0%} of the time)",
            f"  {labels['before']:.1%} of the {int(labels['settled']):,} settled labels are wrong; with the "
            f"{int(labels['rows'] - labels['settled']):,} disputed ones,",
            f"  where the student casts the third vote, {labels['after']:.1%} of {int(labels['rows']):,} "
            f"({int(labels['overwritten']):,} overwritten, {labels['fixes_right']:.0%} of them to the truth)",
        ]
    )


def _promise(result: DemoResult) -> str:
    policy = (result.nightly.get("retrain") or result.first)["policy"]
    lines = [f"The promise (certified against {policy['against']}): {policy['sentence']}"]
    lines.append(f"  {'':<34}{'turn one':>16}{'turn two':>16}")
    for name, show in (
        ("answered by the student", lambda turn: f"{turn.answered / max(1, turn.requests):.1%}"),
        ("audited of those", lambda turn: f"{turn.audited}"),
        ("audited error", lambda turn: _percent(turn.audited_wrong / turn.audited if turn.audited else None)),
        ("  95 % interval", lambda turn: f"{turn.low:.1%}-{turn.high:.1%}" if turn.audited else "-"),
        (
            "true error (only the demo knows)",
            lambda turn: _percent(turn.true_wrong / turn.answered if turn.answered else None),
        ),
    ):
        lines.append(f"  {name:<34}" + "".join(f"{show(turn):>16}" for turn in result.turns[:2]))
    lines.append(
        "  The reviewer decided where student and teacher differed and on a share of the rest; "
        "a slip there counts as an error."
    )
    return "\n".join(lines)


def _traffic(result: DemoResult) -> str:
    lines = ["Who answered the traffic", f"  {'':<34}{'turn one':>16}{'turn two':>16}"]
    for tier, name in TIER_NAMES.items():
        if any(turn.tiers.get(tier) for turn in result.turns[:2]):
            shares = [turn.tiers.get(tier, 0) / max(1, turn.requests) for turn in result.turns[:2]]
            lines.append(f"  {name:<34}" + "".join(f"{share:>16.1%}" for share in shares))
    return "\n".join(lines)


def _cost(result: DemoResult) -> str:
    stages = result.spending
    calls = sum(stage["calls"] for stage in stages.values())
    spent = sum(stage["cost_usd"] for stage in stages.values())
    mean = spent / calls if calls else 0.0
    requests = sum(turn.requests for turn in result.turns[:2])
    routed = sum(turn.cost_usd for turn in result.turns[:2])
    everything = requests * mean
    lines = [
        "Cost (simulated prices)",
        f"  labelling, measuring the teacher, second passes   {spent - routed:>9.4f} USD",
        f"  the {requests:,} requests, escalations and audits       {routed:>9.4f} USD",
        f"  the same requests, the LLM asked once for each    {everything:>9.4f} USD",
    ]
    if routed > 0:
        saved = everything - routed
        lines.append(f"  saved on the requests                             {saved / everything:>9.0%}")
        if saved > 0:
            pays = (spent - routed) / (saved / requests)
            lines.append(f"  the labels have paid for themselves after about   {pays:>9,.0f} requests")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _short(place: str) -> str:
    """A path as seen from the working directory where it lies below it."""
    kind, _, path = place.rpartition("sqlite:///")
    try:
        return ("sqlite:///" if kind or place.startswith("sqlite:///") else "") + str(
            Path(path).relative_to(Path.cwd())
        )
    except ValueError:
        return place


def write(result: DemoResult, file: Path) -> None:
    """Keep the table and its numbers beside the project's data."""
    file.write_text(json.dumps(as_dict(result), default=str, indent=1), encoding="utf-8")
    file.with_suffix(".txt").write_text(render(result) + "\n", encoding="utf-8")
