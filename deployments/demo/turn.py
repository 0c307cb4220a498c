"""Two turns of the wheel by the same flows that a user runs, against a simulated teacher in its own process."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from deployments.demo.numbers import Turn, label_error, spending, turns
from deployments.demo.scene import Scene
from tasks.demo.reviewer import simulated_review
from tasks.errors import FlywheelError
from tasks.project import Project, load_project
from tasks.store import open_store

DEFAULT_PORT = 8700
START_SECONDS = 60


@dataclass(frozen=True)
class DemoResult:
    """What two turns left, as plain values."""

    project_file: str
    teacher_noise: float
    reviewer_error: float
    reviewed: int
    labelled: dict[str, Any]
    first: dict[str, Any]
    nightly: dict[str, Any]
    turns: list[Turn]
    spending: dict[str, dict[str, float]]
    labels: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


def free_port(wanted: int = DEFAULT_PORT) -> int:
    """The wanted port of loopback if nobody has it, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on loopback")


@contextmanager
def simulated_teacher(answers: Path, port: int, log: Path, content_column: str = "text") -> Iterator[None]:
    """The simulated teacher as a process of its own, up while the block runs."""
    arguments = ["teacher-sim", "--answers", str(answers), "--text-column", content_column]
    arguments += ["--answer-columns", "a,b", "--port", str(port)]
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", *arguments], stdout=stream, stderr=stream
        )
        try:
            _wait_for(process, port, log)
            yield
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        if process.poll() is not None:
            break
        try:
            with socket.create_connection(("127.0.0.1", port), 0.2):
                return
        except OSError:
            time.sleep(0.05)
    raise FlywheelError(f"the simulated teacher did not start: {log.read_text(encoding='utf-8')[-500:]}")


def turn_twice(
    scene: Scene, port: int, reviewer_error: float, review_rows: int, seed: int, say: Callable[[str], None]
) -> DemoResult:
    """Run both turns; what stands in the database already is not paid for again.

    Turn one: label, review, embed, clean, retrain, promote, route. Turn two: `nightly` on drifted traffic, after
    the reviewer has looked at its queue.
    """
    from flows.clean import clean
    from flows.embed import embed
    from flows.label import label
    from flows.nightly import nightly
    from flows.promote import promote
    from flows.report import report
    from flows.retrain import retrain
    from flows.route import route

    project, file = load_project(scene.project_file), str(scene.project_file)
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        say(name)
        started = time.monotonic()
        result = work()
        seconds[name] = round(time.monotonic() - started, 1)
        return result

    project.root.mkdir(parents=True, exist_ok=True)
    with simulated_teacher(scene.answers_file, port, project.root / "teacher.log", scene.content_column):
        labelled = timed("label: the teacher answers every item twice", lambda: label(file, gold=True))
        reviewed = timed(
            "review: a simulated person looks at the queue",
            lambda: _review(project, scene, reviewer_error, review_rows, seed),
        )
        timed("embed: every item becomes a vector, once", lambda: embed(file))
        cleaned = timed("clean: labels the student confidently contradicts", lambda: clean(file))
        first = timed("retrain: candidates, calibration, certificate", lambda: retrain(file))
        labels = label_error(
            open_store(project.database_url, project.project), scene.truth, pl.read_parquet(cleaned.path)
        )
        timed("promote: the gate", lambda: promote(file))
        out = project.root / "routed" / "turn-1.parquet"
        timed("route: fresh traffic", lambda: route(file, str(scene.write_turn(1)), str(out)))
        reviewed += timed(
            "review: differences between student and teacher",
            lambda: _review(project, scene, reviewer_error, review_rows, seed + 1),
        )
        scene.write_turn(2)
        night = timed("nightly: the wheel turns again, on new traffic", lambda: nightly(file))
    reviewed += timed(
        "review: differences on the new traffic",
        lambda: _review(project, scene, reviewer_error, review_rows, seed + 2),
    )
    timed("report", lambda: report(file))
    store = open_store(project.database_url, project.project)
    return DemoResult(
        project_file=file,
        teacher_noise=scene.teacher_noise,
        reviewer_error=reviewer_error,
        reviewed=reviewed,
        labelled=labelled.as_dict(),
        first=first.as_dict(),
        nightly=night,
        turns=turns(store, scene.truth),
        spending=spending(store),
        labels=labels,
        seconds=seconds,
        places={
            "report": night.get("report") or str(project.root / "report" / "index.html"),
            "routed answers": str(out),
            "database": project.database_url,
            "MLflow store": project.tracking_uri,
            "pictures": f"in MLflow: experiment {project.experiment}, the artifacts of each retrain run",
        },
    )


def _review(project: Project, scene: Scene, error: float, rows: int, seed: int) -> int:
    from tasks.labeling.steps import export_review_queue, import_reviewed
    from tasks.store.runs import working

    store = open_store(project.database_url, project.project)
    with working(store, project.project, "review", {"rows": rows}) as run:
        place, _ = export_review_queue(project, limit=rows)
        reviewed = simulated_review(Path(place), scene.truth, error, seed)
        record = import_reviewed(project, reviewed, run.id)
    return int(record["changed"])
