"""A killed run re-pays no more than what was in flight, counted by the server."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tasks.store import open_store, schema
from tests.labeling.scripted import KETTLES, Said, ScriptedTeacher, put_texts, says

ITEMS, CONCURRENCY = 100, 8


@pytest.mark.parametrize("after", [1, 37, 150])
def test_kill_9_re_pays_at_most_what_was_in_flight(tmp_path: Path, after: int) -> None:
    url = f"sqlite:///{tmp_path / 'flywheel.db'}"
    store = open_store(url, "tiny")
    put_texts(store, [f"item {i}" for i in range(ITEMS)])
    reached, lock = threading.Event(), threading.Lock()
    paid = 0

    def script(item: str, number: int, asked: int) -> Said:
        nonlocal paid
        with lock:
            paid += 1
            if paid == after:
                reached.set()
        return says(KETTLES)

    def run() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.labeling.killed_run", url, teacher.base_url, str(CONCURRENCY)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])

    with ScriptedTeacher(script) as teacher:
        first = run()
        assert reached.wait(60)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        kept = store.scalar(select(func.count()).select_from(schema.calls))
        assert paid - kept <= CONCURRENCY
        second = run()
        out, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert int(out) == 2 * ITEMS - kept
    assert paid <= 2 * ITEMS + CONCURRENCY
    assert store.scalar(select(func.count()).select_from(schema.labels)) == ITEMS
    store.close()
