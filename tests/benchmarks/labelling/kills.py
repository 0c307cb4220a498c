"""One job killed again and again with kill -9: what the server was paid, and what the ledger holds in the end."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter

from sqlalchemy import func, select

from tasks.store import open_store, schema
from tests.benchmarks.labelling.bench import PASSES, Bench
from tests.benchmarks.labelling.figures import Figure, Findings
from tests.benchmarks.labelling.measured import ended, marks, start
from tests.benchmarks.labelling.teacher import TeacherProcess, running_teacher

POLL_SECONDS = 0.02
LATEST_SECONDS = 0.3  # beyond the drawn request the kill waits up to so long: anywhere in a commit's life
SEED = 0


def kill(bench: Bench) -> Findings:
    """Kill one job at random moments, run it to its end, and count."""
    sizes, found = bench.sizes, Findings("kill")
    scene, name = bench.scene(sizes.kill_items), bench.new_name()
    requests = sizes.kill_items * PASSES
    dice = random.Random(SEED)
    moments = sorted(dice.randrange(1, requests) for _ in range(sizes.kills))
    with running_teacher(scene, sizes.latency_ms) as teacher:
        command = bench.client(scene.project(name, teacher.base_url, sizes.concurrency, PASSES))
        killed = 0
        for number, moment in enumerate(moments):
            process = start(command, bench.folder / f"{name}-{number}.out")
            killed += killed_at(process, teacher, moment, dice.uniform(0, LATEST_SECONDS))
            found.rows.append(
                {"kill at request": moment, "paid so far": teacher.stats()["paid"],
                 "kept": _kept(scene.database_url(name), name)}
            )  # fmt: skip
        out = bench.folder / f"{name}-end.out"
        last = start(command, out)
        with ended(last):
            exit_code = last.wait()
        stats = teacher.stats()
    store = open_store(scene.database_url(name), name)
    answers = schema.answers.c
    counted = store.read(
        select(answers.key, answers["pass"], func.count().label("n")).group_by(answers.key, answers["pass"])
    )
    often = Counter(counted["n"].to_list())
    store.close()
    once = often.get(1, 0)
    labelled = marks(out).get("end", {}).get("result", {}).get("unlabelled_left")
    most = requests + sizes.kills * sizes.concurrency
    found.notes.append(
        f"{killed} kills; {stats['paid']:,} requests paid for {requests:,} answers, at most {most:,} allowed; "
        f"paid twice: {stats['paid_again']:,}"
    )
    found.figures += [
        Figure("kills", killed, "==", sizes.kills),
        Figure("paid beyond one a pass", stats["paid"] - requests, "<=", sizes.kills * sizes.concurrency),
        Figure("items and passes answered exactly once", once, "==", requests),
        Figure("exit code of the last run", exit_code, "==", 0),
        Figure("items left unlabelled", labelled, "==", 0),
    ]
    return found


def killed_at(process: subprocess.Popen[bytes], teacher: TeacherProcess, paid: int, later: float) -> bool:
    """Kill when the server was paid so often, and a moment later; False if the process ended by itself."""
    with ended(process):
        while process.poll() is None:
            if teacher.stats()["paid"] >= paid:
                time.sleep(later)
                break
            time.sleep(POLL_SECONDS)
        return process.poll() is None


def _kept(url: str, project: str) -> int:
    store = open_store(url, project)
    kept = store.scalar(select(func.count()).select_from(schema.answers))
    store.close()
    return int(kept or 0)
