"""The same job by others in the same run: speed, CPU, and what each pays again after one kill -9 half-way.

One pass, because curator's cache keeps one answer a prompt.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from tests.benchmarks.labelling.bench import MODULE, Bench, Job
from tests.benchmarks.labelling.figures import Findings
from tests.benchmarks.labelling.kills import killed_at
from tests.benchmarks.labelling.measured import ended, start
from tests.benchmarks.labelling.scene import Scene
from tests.benchmarks.labelling.teacher import TeacherProcess, running_teacher

Command = Callable[[TeacherProcess], list[str]]


def peers(bench: Bench) -> Findings:
    """A row a client."""
    found = Findings("peers")
    sizes = bench.sizes
    scene = bench.scene(sizes.peer_items)
    for name, renew in _clients(bench, scene).items():
        with running_teacher(scene, sizes.latency_ms) as teacher:
            measured = bench.measured(renew()(teacher), f"peer-{name}", teacher)
            job = Job(sizes.peer_items, 1, sizes.latency_ms, sizes.concurrency, measured, teacher.stats())
        row = job.row(name)
        stats = job.stats
        row["of ceiling"] = job.rate / job.ceiling
        row["tokens/request"] = stats["prompt_tokens"] // max(stats["paid"], 1)
        row["paid again"] = _paid_again(bench, scene, renew())
        found.rows.append(row)
    found.notes.append(
        f"of ceiling: of {sizes.concurrency} slots at {sizes.latency_ms:g} ms; paid again: after one kill -9 half-way"
    )
    reason = _no_curator(bench.curator_python)
    if reason:
        found.notes.append(f"skipped: bespokelabs-curator, {reason}")
    return found


def _clients(bench: Bench, scene: Scene) -> dict[str, Callable[[], Command]]:
    """By name, what makes the command of a fresh job: a new database or cache each time."""
    slots = ["--concurrency", str(bench.sizes.concurrency)]

    def ours() -> Command:
        name = bench.new_name()
        return lambda teacher: bench.client(scene.project(name, teacher.base_url, bench.sizes.concurrency, 1))

    def loop(kind: str) -> Callable[[], Command]:
        return lambda: lambda teacher: bench.loop(kind, scene, teacher)

    def curator() -> Command:
        cache = bench.folder / bench.new_name()
        files = [str(bench.texts_file(scene)), str(scene.folder / "leaves.json")]
        python = str(bench.curator_python)
        return lambda teacher: [
            python, "-m", f"{MODULE}.curator_loop", teacher.base_url, *files, "--cache", str(cache), *slots
        ]  # fmt: skip

    clients = {"ours": ours, "AsyncOpenAI loop": loop("openai"), "bare aiohttp": loop("aiohttp")}
    if not _no_curator(bench.curator_python):
        clients["curator"] = curator
    return clients


def _paid_again(bench: Bench, scene: Scene, command: Command) -> int | None:
    """Payments beyond one an item, when a job is killed half-way and run again to its end."""
    with running_teacher(scene, bench.sizes.latency_ms) as teacher:
        out = bench.folder / f"{bench.new_name()}.out"
        if not killed_at(start(command(teacher), out), teacher, scene.items // 2, 0.0):
            return None
        again = start(command(teacher), out)
        with ended(again):
            if again.wait():
                return None
        return int(teacher.stats()["paid"]) - scene.items


def _no_curator(python: str | None) -> str:
    """Why there is none; empty if there is one."""
    if python is None:
        return "no --curator-python was named"
    tried = subprocess.run([python, "-c", "import bespokelabs.curator"], capture_output=True, text=True)
    return tried.stderr.strip().splitlines()[-1] if tried.returncode else ""
