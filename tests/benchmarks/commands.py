"""What the everyday commands cost: wall time and peak memory of `--help`, `demo` and `nightly` with nothing new.

Run as `python -m tests.benchmarks.commands [--skip-demo HOME]`. Memory is the resident set of the whole tree of
processes, sampled ten times a second, the simulated teacher and the orchestrator's server included.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.1


def run(home: Path, *arguments: str) -> tuple[float, float, int]:
    """(wall seconds, peak GB of the process tree, exit code) of one command."""
    environment = os.environ | {"FLYWHEEL_HOME": str(home)}
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", *arguments],
        cwd=home,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for member in [root, *root.children(recursive=True)]:
                total += member.memory_info().rss
        except psutil.NoSuchProcess:
            pass
        peak = max(peak, total)
        time.sleep(SAMPLE_SECONDS)
    return time.monotonic() - started, peak / 1e9, process.returncode


def main() -> None:
    """Print one line a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-demo", type=Path, metavar="HOME", help="a home in which the demo already ran")
    home = parser.parse_args().skip_demo
    print(f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB")
    helps = sorted(run(Path.cwd(), "--help")[0] for _ in range(5))
    print(f"flywheel --help: {helps[2]:.2f} s (median of 5, {helps[0]:.2f} to {helps[-1]:.2f})")
    if home is None:
        home = Path(tempfile.mkdtemp(prefix="flywheel-benchmark-"))
        seconds, peak, code = run(home, "demo")
        print(f"flywheel demo: {seconds:.0f} s, peak {peak:.2f} GB over all processes, exit {code}")
    project = str(home / "conf" / "catalogue.yaml")
    seconds, peak, code = run(home, "nightly", "--project", project)
    print(f"flywheel nightly, to digest the last reviews: {seconds:.1f} s, peak {peak:.2f} GB, exit {code}")
    for _ in range(3):
        seconds, peak, code = run(home, "nightly", "--project", project)
        print(f"flywheel nightly, nothing new: {seconds:.1f} s, peak {peak:.2f} GB, exit {code}")


if __name__ == "__main__":
    main()
