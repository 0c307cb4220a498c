"""The simulated teacher in a process of its own, and its counts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.labelling.scene import Scene

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 120.0


@dataclass(frozen=True)
class TeacherProcess:
    """A running `flywheel teacher-sim`."""

    base_url: str
    pid: int

    def stats(self) -> dict[str, Any]:
        """What it counted so far."""
        with urllib.request.urlopen(self.base_url.removesuffix("/v1") + "/stats", timeout=30) as response:
            counted: dict[str, Any] = json.load(response)
        return counted


@contextmanager
def running_teacher(scene: Scene, latency_ms: float, **settings: float | str) -> Iterator[TeacherProcess]:
    """Serve the scene's answers while the block runs; settings are options of `flywheel teacher-sim`."""
    arguments = ["--answers", str(scene.answers_file), "--port", "0", "--latency-ms", str(latency_ms)]
    for name, value in settings.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    log = scene.folder / "teacher.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "teacher-sim", *arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
        try:
            yield TeacherProcess(_address(process, log), process.pid)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.startswith("teacher at http"):
                return line.removeprefix("teacher at ").strip()
        time.sleep(0.05)
    raise RuntimeError(f"the simulated teacher did not start: {log.read_text(encoding='utf-8')[-1000:]}")
