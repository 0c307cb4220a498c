"""Runs a process, watches its memory, and knows how busy the machine was with other things meanwhile.

The process speaks through `marks`; what it does is its own affair.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.benchmarks.labelling.teacher import ROOT, TeacherProcess

SAMPLE_SECONDS = 0.05
MEGABYTE = 2**20
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Measured:
    """One process from its mark `begin` to its mark `end`, and the machine meanwhile.

    Attributes:
        exit_code: of the process.
        result: what it said at its end; empty if it never got there.
        seconds: wall time.
        cpu_seconds: user and system time of all its threads.
        idle_mb: resident memory at rest, after the same imports.
        median_mb: above that, half of the time between begin and end; peak_mb: the most.
        peak_at: when the most was first reached, as a share of the time from begin to end.
        job_peak_mb: the same from rest to the mark `reviewed` if there is one, what came before `begin` included.
        taking_in_mb: the same from rest to begin.
        others_cores: cores that neither it nor the teacher nor the benchmark used, on average.
        load_average: of one minute, at the begin.
    """

    exit_code: int
    result: dict[str, Any]
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    idle_mb: float = 0.0
    median_mb: float = 0.0
    peak_mb: float = 0.0
    peak_at: float = 0.0
    job_peak_mb: float = 0.0
    others_cores: float = 0.0
    load_average: float = 0.0
    taking_in_mb: float = 0.0


def start(command: Sequence[str], out: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a process in the repository's root with stdout in a file, and stderr in one beside it."""
    with out.open("wb") as stdout, out.with_suffix(".err").open("wb") as stderr:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT, "FLYWHEEL_HOME": str(out.parent), **environment},
            stdout=stdout,
            stderr=stderr,
        )


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """However the block ends, the process has ended too."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(
    command: Sequence[str],
    out: Path,
    teacher: TeacherProcess,
    **environment: str,
) -> Measured:
    """Run a process to its end, sampling its memory twenty times a second."""
    watched = (teacher.pid, os.getpid())
    load_average = os.getloadavg()[0]
    before, machine_before = _cpu_of(watched), _machine_cpu()
    started = time.monotonic()
    process = start(command, out, **environment)
    samples: list[tuple[float, int]] = []
    client_cpu = 0.0
    member = psutil.Process(process.pid)
    with ended(process):
        while process.poll() is None:
            try:
                samples.append((time.time(), member.memory_info().rss))
                client_cpu = sum(member.cpu_times()[:2])
            except psutil.Error:
                break
            time.sleep(SAMPLE_SECONDS)
        exit_code = process.wait()
    lasted = time.monotonic() - started
    ours = _cpu_of(watched) - before + client_cpu
    others = max(0.0, (_machine_cpu() - machine_before - ours) / lasted)
    found = marks(out)
    if "end" not in found:
        return Measured(exit_code, {}, others_cores=others, load_average=load_average)
    idle, begin, end = (found[name] for name in ("idle", "begin", "end"))
    resting = max((rss for at, rss in samples if idle["at"] <= at < idle["at"] + 0.3), default=0)
    work = [(at, rss) for at, rss in samples if begin["at"] <= at <= end["at"]] or [(begin["at"], resting)]
    peak = max(rss for _, rss in work)
    over = found.get("reviewed", end)["at"]
    job_peak = max((rss for at, rss in samples if idle["at"] <= at <= over), default=resting)
    taking_in = max((rss for at, rss in samples if idle["at"] <= at < begin["at"]), default=resting)
    seconds = end["at"] - begin["at"]
    return Measured(
        exit_code,
        end["result"],
        seconds,
        end["cpu_seconds"] - begin["cpu_seconds"],
        resting / MEGABYTE,
        (median(rss for _, rss in work) - resting) / MEGABYTE,
        (peak - resting) / MEGABYTE,
        (next(at for at, rss in work if rss == peak) - begin["at"]) / seconds,
        (job_peak - resting) / MEGABYTE,
        others,
        load_average,
        (taking_in - resting) / MEGABYTE,
    )


def marks(out: Path) -> dict[str, dict[str, Any]]:
    """The marks a process set, by name; other lines on its stdout are its libraries' affair."""
    found = {}
    for line in out.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith('{"mark"'):
            facts = json.loads(line)
            found[facts["mark"]] = facts
    return found


def wait_for_quiet(most_busy: float, seconds: float) -> None:
    """Wait until the machine is less busy than this share over two seconds, or the time is over."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and psutil.cpu_percent(2.0) / 100 > most_busy:
        pass


def _cpu_of(pids: Sequence[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def _machine_cpu() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))
