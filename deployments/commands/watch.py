"""Commands that look and change nothing: thresholds, report, bench, status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from deployments.output import Outcome, command, shown

if TYPE_CHECKING:
    from tasks.monitoring.bench import Bench
    from tasks.monitoring.operating_points import OperatingPoints
    from tasks.project import Project
    from tasks.store import Store


@contextmanager
def opened(project: str) -> Iterator[tuple[Project, Store]]:
    """The project's settings and its database, without a run: who only looks needs no lease."""
    from tasks.project import load_project
    from tasks.store import open_store

    settings = load_project(project)
    store = open_store(settings.database_url, settings.project)
    try:
        yield settings, store
    finally:
        store.close()


@click.command(name="thresholds")
@click.option("--version", help="A model version; the champion if not given, else the newest.")
@command()
def thresholds_command(project: str, version: str | None) -> Outcome:
    """Print the policy in force, the escalation table, and what other targets would certify."""
    from tasks.monitoring.operating_points import operating_points

    with opened(project) as (settings, store):
        found = operating_points(settings, store, version)
    if found is None:
        return Outcome({"version": None}, "There is no version yet: `flywheel retrain` trains the first one.")
    return Outcome(found.as_dict(), _operating_points(found))


@click.command(name="report")
@command()
def report_command(project: str) -> Outcome:
    """Write the HTML report and say where it lies."""
    from flows.report import report

    place = report(project)
    return Outcome({"report": place}, place)


@click.command(name="bench")
@click.option(
    "--items", default=300, show_default=True, type=click.IntRange(min=1), help="Answered one by one."
)
@command()
def bench_command(project: str, items: int) -> Outcome:
    """Measure the champion: latency of one item, throughput, memory; beside the teacher's latency."""
    from tasks.monitoring.bench import bench

    with opened(project) as (settings, store):
        measured = bench(settings, store, items)
    return Outcome(measured.as_dict(), _measured(measured))


@click.command(name="status")
@command()
def status_command(project: str) -> Outcome:
    """Say how the project stands: items, labels, who serves, what ran last, what is owed."""
    from tasks.monitoring.status import render_status, status

    with opened(project) as (settings, store):
        found = status(settings, store)
    return Outcome(found, render_status(found))


def _operating_points(found: OperatingPoints) -> str:
    parts = [f"version {found.version}" + (f" ({found.role})" if found.role else ", which does not serve")]
    policy = found.policy
    if policy is None:
        parts.append("No policy was issued for it: it answers nothing.")
    else:
        parts.append(f"policy {policy.id}: {policy.sentence}")
        if policy.thresholds is not None:
            levels = {level: f"at least {value:.4f}" for level, value in policy.thresholds.items()}
            parts.append(f"it answers where the confidence, less for unfamiliar items, is\n{shown(levels)}")
        if policy.partial_thresholds is not None:
            levels = {level: f"at least {value:.4f}" for level, value in policy.partial_thresholds.items()}
            parts.append(f"else it stops at the deepest level where that is\n{shown(levels)}")
    if not found.escalation:
        return "\n\n".join(
            [*parts, "What its retrain left behind is gone: the next retrain shows the tables."]
        )
    table = [
        (
            f"{row['threshold']:.2f}",
            f"{row['escalated']:.1%}",
            "–" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
            f"{row['answered']:,}",
        )
        for row in found.escalation
    ]
    judged = "gold" if found.judged_on == "gold" else "held-out labels of the teacher (agreement)"
    parts.append(
        f"escalation by that of the deepest level, on {judged}; nothing here is certified\n"
        + _table(("threshold", "escalated", "accuracy", "answered"), table)
    )
    return "\n\n".join([*parts, _coverage(found)])


def _coverage(found: OperatingPoints) -> str:
    sample = found.sample
    if sample is None:
        return "No calibration sample was kept with this version: the next retrain shows coverage by target."
    rows = [
        (
            f"{row['target_error']:.0%}",
            f"{row['certified_coverage']:.1%}"
            + (f" + {row['partial_coverage']:.1%} in part" if row["partial_coverage"] else ""),
            f"{row['measured_coverage']:.1%}",
            f"{row['coverage_at_most']:.1%}",
            f"{row['errors']:,} of {row['accepted']:,}" if row["thresholds"] else "–",
            _wanted(row),
        )
        for row in found.coverage
    ]
    promise = (
        "agreement with the teacher" if sample["against"] == "teacher" else f"against {sample['against']}"
    )
    fitted = ", cross-fitted" if sample["cross_fitted"] else ""
    policy = found.policy
    if policy and (policy.calibration_items, policy.against) != (sample["items"], sample["against"]):
        fitted += "; the policy in force rests on a newer sample"
    return (
        f"certified coverage by target error, {promise}, on the {sample['items']:,} items of its retrain{fitted}\n"
        + _table(("target", "certified", "measured", "at most", "wrong", ""), rows)
        + f"\nCertified is proved{_how_far(sample)}; measured kept the target in this sample, which is no promise; "
        "beyond `at most` the target is shown to be broken.\nThe band is exact binomial at the policy's confidence. "
        "Each line is a promise of its own: set routing.target_error first, then retrain or recalibrate."
    )


def _how_far(sample: Mapping[str, Any]) -> str:
    return " as far as cross-fitting goes, which is empirical" if sample["cross_fitted"] else ""


def _wanted(row: Mapping[str, Any]) -> str:
    if row["thresholds"]:
        return ""
    if row["more_rows_needed"] is None:
        return "more rows would not help"
    return f"about {row['more_rows_needed']:,} more judged items wanted"


def _measured(measured: Bench) -> str:
    def times(latency: Any) -> tuple[str, str, str]:
        return f"{latency.p50:,.2f}", f"{latency.p95:,.2f}", f"{latency.p99:,.2f}"

    rows = [
        ("student, one item", *times(measured.latency_ms)),
        ("  its head alone", *times(measured.head_latency_ms)),
    ]
    teacher, rate, onnx = measured.teacher, measured.throughput, measured.onnx_head
    if onnx is not None:
        rows.append(("  its ONNX head", *times(onnx.latency_ms)))
    if teacher is not None:
        rows.append(("teacher, one call", *times(teacher.latency_ms)))
    lines = {
        "throughput": f"{rate.items_per_second:,.0f} items/s at batch {rate.batch:,} "
        f"(head alone {rate.head_items_per_second:,.0f}"
        + (")" if onnx is None else f", in ONNX {onnx.items_per_second:,.0f})"),
        "answered": f"{measured.answered:.1%} of {measured.items:,} items, under the policy in force",
        "memory": f"{measured.peak_memory_mb:,.0f} MB at most, everything imported",
        "threads": f"{measured.threads} of {measured.cpus} processors",
        "loading": f"{measured.load_seconds:.1f} s",
        "teacher": "not asked yet"
        if teacher is None
        else f"{teacher.model}, {teacher.calls:,} calls, {teacher.cost_usd_per_call:.6f} USD each",
    }
    head = f"version {measured.model_version}: {measured.student} on {measured.encoder}"
    return "\n".join([head, _table(("milliseconds", "p50", "p95", "p99"), rows), shown(lines)])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first to the left, the others to the right, a last one without a head to the left."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = []
    for row in [heads, *rows]:
        cells = [
            text.ljust(width) if not place or not heads[place] else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)
