"""What every section stands on: sizes, a folder, and the running of one job of ours against one teacher.

Knows no goals. Counts of requests and their times are the server's, CPU and memory the client process's own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.benchmarks.labelling.figures import Cell
from tests.benchmarks.labelling.measured import Measured, measure, wait_for_quiet
from tests.benchmarks.labelling.scene import LEAVES, Scene, write_scene
from tests.benchmarks.labelling.teacher import TeacherProcess, running_teacher

MODULE = "tests.benchmarks.labelling"
PASSES = 2
FULL_SPEED = 0.9
FIRST_SECONDS = 2  # of a job, in which it gets up to speed


@dataclass(frozen=True)
class Sizes:
    """How much is done; times in seconds, latencies in milliseconds a reply."""

    concurrency: int = 64
    latency_ms: float = 200
    slow_latency_ms: float = 1000
    items: int = 5000
    slow_items: int = 1920
    fault_items: int = 3000
    storm_items: int = 4000
    storm_start_seconds: int = 5
    storm_seconds: int = 30
    kill_items: int = 5000
    kills: int = 10
    memory_items: tuple[int, int] = (2000, 200_000)
    peer_items: int = 3000


QUICK = Sizes(
    concurrency=8,
    latency_ms=20,
    slow_latency_ms=40,
    items=100,
    slow_items=50,
    fault_items=100,
    storm_items=400,
    storm_start_seconds=1,
    storm_seconds=1,
    kill_items=150,
    kills=1,
    memory_items=(50, 200),
    peer_items=100,
)


@dataclass
class Bench:
    """One run of the benchmark, writing under one folder."""

    folder: Path
    sizes: Sizes
    curator_python: str | None = None
    quiet_seconds: float = 0.0
    quiet_share: float = 0.15
    say: Callable[[str], None] = lambda line: None
    jobs: int = 0
    scenes: dict[int, Scene] = field(default_factory=dict)
    clean_jobs: dict[int, Job] = field(default_factory=dict)

    def scene(self, items: int) -> Scene:
        """So many items, written once."""
        if items not in self.scenes:
            self.scenes[items] = write_scene(self.folder / f"items-{items}", items)
        return self.scenes[items]

    def job(
        self,
        items: int,
        latency_ms: float,
        passes: int = PASSES,
        **faults: float | str,
    ) -> Job:
        """One job of ours from an empty database, against a teacher of its own."""
        scene = self.scene(items)
        with running_teacher(scene, latency_ms, **faults) as teacher:
            name = self.new_name()
            command = self.client(scene.project(name, teacher.base_url, self.sizes.concurrency, passes))
            measured = self.measured(command, name, teacher)
            return Job(items, passes, latency_ms, self.sizes.concurrency, measured, teacher.stats())

    def clean(self, items: int) -> Job:
        """A job without any fault at the usual latency, run once for all sections that compare with it."""
        if items not in self.clean_jobs:
            self.clean_jobs[items] = self.job(items, self.sizes.latency_ms)
        return self.clean_jobs[items]

    def bare_aiohttp(self, items: int, latency_ms: float) -> Job:
        """What the machine and the server allow: every item asked once, and nothing kept."""
        scene = self.scene(items)
        with running_teacher(scene, latency_ms) as teacher:
            name = f"aiohttp-{latency_ms:g}"
            measured = self.measured(self.loop("aiohttp", scene, teacher), name, teacher)
            return Job(items, 1, latency_ms, self.sizes.concurrency, measured, teacher.stats())

    def loop(self, kind: str, scene: Scene, teacher: TeacherProcess) -> list[str]:
        """The command of another client's loop over the scene's items."""
        arguments = [
            kind,
            teacher.base_url,
            str(scene.answers_file),
            "--concurrency",
            str(self.sizes.concurrency),
        ]
        return [sys.executable, "-m", f"{MODULE}.loops", *arguments]

    def new_name(self) -> str:
        """The name of the next job."""
        self.jobs += 1
        return f"job-{self.jobs}"

    def client(self, project: Path) -> list[str]:
        """The command of our client, which imports all it will need before it begins."""
        return [sys.executable, "-m", f"{MODULE}.client", str(project), "--modules", str(self.modules)]

    def measured(
        self, command: list[str], name: str, teacher: TeacherProcess, **environment: str
    ) -> Measured:
        """Run a command in a quiet moment, if there is one."""
        wait_for_quiet(self.quiet_share, self.quiet_seconds)
        self.say(f"{name}: {' '.join(command[1:5])}")
        return measure(command, self.folder / f"{name}.out", teacher, **environment)

    @cached_property
    def modules(self) -> Path:
        """The modules that a job imports on its way, found out by a small job."""
        file = self.folder / "modules.txt"
        scene = self.scene(20)
        with running_teacher(scene, 0) as teacher:
            name = self.new_name()
            project = scene.project(name, teacher.base_url, 4, PASSES)
            command = [sys.executable, "-m", f"{MODULE}.client", str(project), "--write-modules", str(file)]
            done = measure(command, self.folder / f"{name}.out", teacher)
        if done.exit_code or not file.exists():
            problem = (self.folder / f"{name}.err").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"a job of 20 items failed (exit {done.exit_code}): {problem[-2000:]}")
        return file

    def texts_file(self, scene: Scene) -> Path:
        """The items as JSON lines, and beside it the labels, for a client that cannot read parquet."""
        (scene.folder / "leaves.json").write_text(json.dumps(LEAVES))
        file = scene.folder / "texts.jsonl"
        file.write_text("".join(json.dumps(text) + "\n" for text in scene.texts()))
        return file


@dataclass(frozen=True)
class Job:
    """One measured job: what the client said of itself, and what the server counted."""

    items: int
    passes: int
    latency_ms: float
    concurrency: int
    measured: Measured
    stats: dict[str, Any]

    @property
    def requests(self) -> int:
        """The fewest requests that answer everything."""
        return self.items * self.passes

    @property
    def ceiling(self) -> float:
        """Requests a second that so many slots allow."""
        return self.concurrency / (self.latency_ms / 1000)

    @property
    def rate(self) -> float:
        """Good replies a second, from the first request's arrival to the last reply."""
        return float(self.stats["by_status"].get("200", 0) / max(self.stats["seconds"], 1e-9))

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of the client a good reply, choosing, ledger and labels included."""
        return self.measured.cpu_seconds * 1000 / max(self.stats["by_status"].get("200", 0), 1)

    @property
    def full_rate(self) -> float:
        """Good replies a second when at speed: the mean over whole seconds without the first two and the last."""
        seconds = self.stats["answered_by_second"][FIRST_SECONDS:-1]
        return sum(seconds) / len(seconds) if seconds else self.rate

    @property
    def lost(self) -> int:
        """Items without a label at the end, those aside whose passes differ."""
        result = self.measured.result
        return (
            self.items - int(result.get("labelled", result.get("answered", 0))) - result.get("disagreed", 0)
        )

    def row(self, name: str) -> dict[str, Cell]:
        """The columns that every section shows."""
        measured = self.measured
        return {
            "job": name,
            "requests": self.requests,
            "seconds": measured.seconds,
            "requests/s": self.rate,
            "CPU ms/request": self.cpu_ms,
            "exit": measured.exit_code,
            "lost": self.lost,
            "others' cores": measured.others_cores,
            "load": measured.load_average,
        }
