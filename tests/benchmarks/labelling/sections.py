"""Speed, faults, storms and memory of one labelling job, each against its goal."""

from __future__ import annotations

from tests.benchmarks.labelling.bench import FULL_SPEED, Bench, Job
from tests.benchmarks.labelling.figures import Figure, Findings

WINDOW_SECONDS = 2  # replies come in waves as long as the latency: one second alone says too little


def throughput(bench: Bench) -> Findings:
    """Requests a second against the ceiling of slots and latency, and what the client costs."""
    sizes, found = bench.sizes, Findings("throughput")
    bare = bench.bare_aiohttp(sizes.items, 0)
    found.notes.append(
        f"the server's own ceiling: {bare.rate:,.0f} requests/s to bare aiohttp without latency"
    )
    fast = bench.clean(sizes.items)
    loop = bench.bare_aiohttp(sizes.items, sizes.latency_ms)
    slow = bench.job(sizes.slow_items, sizes.slow_latency_ms)
    for name, job in (("ours", fast), ("bare aiohttp", loop), ("ours", slow)):
        row = job.row(f"{name}, {job.latency_ms:g} ms a reply")
        step = job.requests / job.measured.seconds if job.measured.seconds else 0.0
        row |= {
            "of ceiling": job.rate / job.ceiling,
            "at speed": job.full_rate / job.ceiling,
            "whole step": step / job.ceiling,
        }
        found.rows.append(row)
    found.notes.append(
        "of ceiling: from the first request to the last reply; at speed: without the first two seconds and the last; "
        "whole step: choosing and labels too"
    )
    found.figures += [
        Figure(f"share of {fast.ceiling:g} requests/s", fast.rate / fast.ceiling, ">=", 0.85),
        Figure(f"share of {slow.ceiling:g} requests/s", slow.rate / slow.ceiling, ">=", 0.95),
        Figure("CPU ms a request, ledger included", fast.cpu_ms, "<=", 2.0),
        Figure("lost items", fast.lost + slow.lost, "==", 0),
    ]
    return found


def faults(bench: Bench) -> Findings:
    """5 % of 429 with Retry-After and 2 % of 500, between two clean jobs."""
    sizes, found = bench.sizes, Findings("faults")
    before = bench.job(sizes.fault_items, sizes.latency_ms)
    faulty = bench.job(sizes.fault_items, sizes.latency_ms, rate_limit_rate=0.05, error_rate=0.02)
    after = bench.job(sizes.fault_items, sizes.latency_ms)
    for name, job in (("clean", before), ("429 5 %, 500 2 %", faulty), ("clean again", after)):
        found.rows.append(job.row(name) | {"429": job.stats["by_status"].get("429", 0)})
    clean_seconds = (before.measured.seconds + after.measured.seconds) / 2
    slower = faulty.measured.seconds / clean_seconds if _complete(faulty) else None
    found.figures += [
        Figure("lost items", faulty.lost, "==", 0),
        Figure("exit code", faulty.measured.exit_code, "==", 0),
        Figure("times as long as clean", slower, "<=", 1.2),
    ]
    return found


def storm(bench: Bench) -> Findings:
    """Nothing but 429 for half a minute: is anything lost, and how soon is the job at speed again."""
    sizes, found = bench.sizes, Findings("storm")
    clean = bench.clean(sizes.items)
    start, lasts = sizes.storm_start_seconds, sizes.storm_seconds
    for asks in (1.0, 0.0):
        job = bench.job(
            sizes.storm_items,
            sizes.latency_ms,
            storm_start_seconds=start,
            storm_seconds=lasts,
            retry_after_seconds=asks,
        )
        name = f"Retry-After {asks:g} s" if asks else "no Retry-After"
        again = seconds_to_full_speed(job.stats["answered_by_second"], start + lasts, clean.full_rate)
        found.rows.append(
            job.row(name) | {"429": job.stats["by_status"].get("429", 0), "at speed after": again}
        )
        found.notes.append(f"{name}, good replies by second: {_brief(job.stats['answered_by_second'])}")
        found.figures += [
            Figure(f"lost items ({name})", job.lost, "==", 0),
            Figure(f"exit code ({name})", job.measured.exit_code, "==", 0),
            Figure(f"seconds until full speed ({name})", again, "<=", 10),
        ]
    found.notes.append(
        f"full speed: {FULL_SPEED:.0%} of a clean job's {clean.full_rate:.0f} requests/s over {WINDOW_SECONDS} seconds"
    )
    return found


def memory(bench: Bench) -> Findings:
    """Resident memory above a resting process with the same imports, for few and for many items.

    The whole job: items taken in, asked about in two passes that differ on 15 %, labels and the review queue written.
    """
    found, peaks = Findings("memory"), []
    for items in bench.sizes.memory_items:
        job = bench.job(items, 0, answer_columns="label,differing")
        measured = job.measured
        peaks.append(measured.job_peak_mb if _complete(job) else None)
        found.rows.append(
            job.row(f"{items:,} items, no latency")
            | {
                "idle MB": measured.idle_mb,
                "taking in": measured.taking_in_mb,
                "labelling, median": measured.median_mb,
                "most": measured.peak_mb,
                "first at": measured.peak_at,
                "whole job": measured.job_peak_mb,
            }
        )
        found.figures.append(Figure(f"MB above idle, {items:,} items", peaks[-1], "<=", 100))
    found.notes.append(
        "MB above idle, the most of each phase; first at: share of the labelling gone by its peak"
    )
    few, many = peaks
    grown = None if few is None or many is None else many - few
    found.figures.append(Figure("MB more for a hundred times the items", grown, "<=", 50))
    return found


def seconds_to_full_speed(by_second: list[int], storm_ends: int, full_rate: float) -> int | None:
    """Seconds from the storm's end to the first window at full speed; None if there is none.

    A window is two whole seconds whose mean is 90 % of the full rate, neither of them below half.

    Args:
        by_second: good replies in each second; the last second may be cut short and is not judged.
        storm_ends: the second in which the storm is over.
        full_rate: good replies a second of a job without a storm.
    """
    for second in range(storm_ends, len(by_second) - WINDOW_SECONDS):
        window = by_second[second : second + WINDOW_SECONDS]
        if sum(window) / WINDOW_SECONDS >= FULL_SPEED * full_rate and min(window) >= full_rate / 2:
            return second - storm_ends
    return None


def _complete(job: Job) -> bool:
    return job.measured.exit_code == 0 and job.lost == 0


def _brief(by_second: list[int]) -> str:
    """Runs of zeros are told by their length."""
    shown: list[str] = []
    zeros = 0
    for count in [*by_second, -1]:
        if count == 0:
            zeros += 1
            continue
        if zeros:
            shown.append("0" if zeros == 1 else f"0 x{zeros}")
            zeros = 0
        if count > 0:
            shown.append(str(count))
    return " ".join(shown)
