"""What the standing stack costs: until it is ready, what it holds before any job, what orchestration adds to a night.

Run as `python -m tests.benchmarks.standing_stack [--starts N] [--nights N] [--home HOME]`. Memory is measured when the
stack has been idle for a while, over all its processes: resident, and proportional (pages that several share are
counted once). A night is `nightly` of the demo's project after `flywheel demo`, which has its last reviews to digest;
it runs in copies of one home, once as a flow on the stack's own server and once with every flow and step replaced by
the function in it, each in a fresh process whose start and imports of ours are left out. `--home` names a home in which
the demo ran already.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

IDLE_SECONDS = 15.0
READY_SECONDS = 300.0
FLOWS = ("clean", "embed", "label", "nightly", "promote", "report", "retrain", "route")
CONF = Path(__file__).parents[2] / "conf"
DEMO = "catalogue"


@contextmanager
def standing(home: Path) -> Iterator[tuple[dict[str, Any], float, psutil.Process]]:
    """`flywheel up` over the home's project files: what it wrote down, the seconds until it was ready, its process."""
    log = home / "up.log"
    started = time.monotonic()
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "deployments.cli", "up", "--conf", str(home / "conf")]
        process = subprocess.Popen(
            [*command, "--prefect-port", "0", "--mlflow-port", "0"],
            env=os.environ | {"FLYWHEEL_HOME": str(home)},
            stdout=stream,
            stderr=stream,
        )
    try:
        while "ready after" not in log.read_text():
            if process.poll() is not None or time.monotonic() - started > READY_SECONDS:
                raise RuntimeError(f"not ready:\n{log.read_text()}")
            time.sleep(0.1)
        seconds = time.monotonic() - started
        state = json.loads((home / "var" / "up.json").read_text())
        yield state, seconds, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def held(root: psutil.Process) -> dict[str, tuple[int, int, float]]:
    """(resident bytes, proportional bytes, CPU seconds) of a process, and of each child's whole tree by its name."""
    found: dict[str, tuple[int, int, float]] = {}
    for name, members in [("up", [root]), *((_name(one), _tree(one)) for one in root.children())]:
        resident = proportional = 0
        cpu = 0.0
        for member in members:
            memory, times = member.memory_full_info(), member.cpu_times()
            resident, proportional = resident + memory.rss, proportional + memory.pss
            cpu += times.user + times.system
        found[name] = (resident, proportional, cpu)
    return found


def _tree(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


def _name(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    known = {"prefect server": "prefect-server", "mlflow server": "mlflow-server", "prefect worker": "worker"}
    return next((name for said, name in known.items() if said in words), words[-40:])


def unorchestrated() -> None:
    """Afterwards what the flows call, one another and the steps, are the plain functions."""
    from prefect import Flow, Task

    for module in [importlib.import_module(f"flows.{name}") for name in FLOWS]:
        for name, value in list(vars(module).items()):
            if isinstance(value, Flow | Task):
                setattr(module, name, value.fn)


def one_night(project_file: Path, plainly: bool) -> dict[str, Any]:
    """Seconds of one `nightly` in this process, our own imports not counted, and whether it changed anything."""
    for name in FLOWS:
        importlib.import_module(f"flows.{name}")
    if plainly:
        unorchestrated()
    nightly = importlib.import_module("flows.nightly").nightly
    started, cpu = time.monotonic(), time.process_time()
    done = nightly(str(project_file))
    seconds = time.monotonic() - started
    return {"seconds": seconds, "cpu": time.process_time() - cpu, "changed": done["changed"]}


def in_a_copy(home: Path, project: str, plainly: bool, api: str) -> dict[str, Any]:
    """`one_night` of a project in a fresh process, in a copy of its home."""
    with tempfile.TemporaryDirectory(prefix="flywheel-night-") as folder:
        copy = Path(folder) / "home"
        shutil.copytree(home, copy, ignore=shutil.ignore_patterns("up.json", "up.lock", "prefect-server"))
        command = [sys.executable, "-m", "tests.benchmarks.standing_stack"]
        command += ["--one", str(copy / "conf" / project), *(["--plainly"] if plainly else [])]
        done = subprocess.run(
            command,
            env=os.environ
            | {
                "FLYWHEEL_HOME": str(copy),
                "PREFECT_API_URL": api,
                "PREFECT_HOME": str(Path(folder) / "prefect"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def _starts(count: int) -> None:
    for start in range(count):
        with tempfile.TemporaryDirectory(prefix="flywheel-up-") as folder:
            home = Path(folder)
            (home / "conf").mkdir()
            for file in (f"{DEMO}.yaml", f"{DEMO}.taxonomy.yaml"):
                shutil.copy(CONF / file, home / "conf" / file)
            load = os.getloadavg()[0]
            with standing(home) as (_, seconds, root):
                time.sleep(IDLE_SECONDS)
                parts = held(root)
                before = {name: cpu for name, (_, _, cpu) in parts.items()}
                time.sleep(IDLE_SECONDS)
                after = held(root)
            cpu = sum(before.values())
            idle = (sum(part[2] for part in after.values()) - cpu) / IDLE_SECONDS
            sums = [sum(part[place] for part in parts.values()) / 1e9 for place in (0, 1)]
            print(
                f"start {start + 1}: ready after {seconds:.1f} s (load {load:.1f} before), {cpu:.0f} s of CPU; idle it "
                f"holds {sums[0]:.2f} GB resident, {sums[1]:.2f} GB proportional, and takes {idle:.1%} of a core"
            )
            for name, (resident, proportional, spent) in parts.items():
                print(
                    f"  {name:<16}{resident / 1e6:8.0f} MB{proportional / 1e6:8.0f} MB proportional{spent:7.1f} s"
                )


def _nights(home: Path, count: int) -> None:
    from deployments.demo.turn import simulated_teacher

    file = home / "conf" / f"{DEMO}.yaml"
    port = int(re.findall(r"127\.0\.0\.1:(\d+)/", file.read_text())[0])
    answers = home / "var" / DEMO / "teacher" / "answers.parquet"
    took: dict[bool, list[float]] = {True: [], False: []}
    with (
        tempfile.TemporaryDirectory(prefix="flywheel-up-") as folder,
        simulated_teacher(answers, port, home / "teacher.log"),
    ):
        (Path(folder) / "conf").mkdir()
        with standing(Path(folder)) as (state, _, _):
            for turn in range(count):
                for plainly in (True, False) if turn % 2 else (False, True):
                    night = in_a_copy(home, file.name, plainly, state["prefect_api"])
                    took[plainly].append(night["seconds"])
                    print(
                        f"night {turn + 1}, {'plain functions' if plainly else 'as a flow':<15} "
                        f"{night['seconds']:6.1f} s, {night['cpu']:6.1f} s of CPU in its process, "
                        f"changed: {night['changed']} (load {os.getloadavg()[0]:.1f})"
                    )
    plain, flow = statistics.median(took[True]), statistics.median(took[False])
    print(
        f"orchestration adds {flow - plain:.1f} s to {plain:.1f} s: {flow / plain - 1:.1%} (medians of {count})"
    )


def main() -> None:
    """Print a line a start and a line a night."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--nights", type=int, default=3)
    parser.add_argument("--home", type=Path, help="a home in which the demo already ran")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plainly", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        from deployments.environment import prepare

        prepare()
        print(json.dumps(one_night(given.one, given.plainly)))
        return
    memory = psutil.virtual_memory().total / 1e9
    print(f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GB, load {os.getloadavg()[0]:.1f} before")
    _starts(given.starts)
    if given.nights:
        home = given.home or Path(tempfile.mkdtemp(prefix="flywheel-benchmark-"))
        if given.home is None:
            demo = [sys.executable, "-m", "deployments.cli", "demo"]
            subprocess.run(demo, cwd=home, env=os.environ | {"FLYWHEEL_HOME": str(home)}, check=True)
        _nights(home, given.nights)


if __name__ == "__main__":
    main()
