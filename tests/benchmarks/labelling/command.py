"""The whole command `flywheel label --json`, its orchestrator included, on the job of section throughput."""

from __future__ import annotations

import json
import sys
import time

import psutil

from tests.benchmarks.labelling.bench import PASSES, Bench
from tests.benchmarks.labelling.figures import Figure, Findings
from tests.benchmarks.labelling.measured import SAMPLE_SECONDS, ended, start
from tests.benchmarks.labelling.teacher import running_teacher


def command(bench: Bench) -> Findings:
    """How much of the command is asking, and that asking is as fast in it as without an orchestrator."""
    sizes, found = bench.sizes, Findings("command")
    scene, name = bench.scene(sizes.items), bench.new_name()
    with running_teacher(scene, sizes.latency_ms) as teacher:
        project = scene.project(name, teacher.base_url, sizes.concurrency, PASSES)
        line = [sys.executable, "-m", "deployments.cli", "label", "--project", str(project), "--json"]
        out = bench.folder / f"{name}.out"
        started, peak, cpu_seconds = time.monotonic(), 0, 0.0
        process = start(line, out)
        watched = psutil.Process(process.pid)
        with ended(process):
            while process.poll() is None:
                try:
                    peak, cpu_seconds = max(peak, watched.memory_info().rss), sum(watched.cpu_times()[:2])
                except psutil.Error:
                    break
                time.sleep(SAMPLE_SECONDS)
            exit_code, seconds, stats = process.wait(), time.monotonic() - started, teacher.stats()
    answered = stats["by_status"].get("200", 0)
    ceiling = sizes.concurrency / (sizes.latency_ms / 1000)
    share = answered / max(stats["seconds"], 1e-9) / ceiling
    found.rows.append(
        {
            "job": "flywheel label --json",
            "requests": answered,
            "seconds": seconds,
            "of them asking": stats["seconds"],
            "of ceiling while asking": share,
            "CPU s, imports too": cpu_seconds,
            "peak MB": peak / 2**20,
            "exit": exit_code,
        }
    )
    said = json.loads(out.read_text().strip() or "{}")
    found.figures.append(Figure("items labelled", said.get("labelled"), "==", sizes.items))
    return found
