"""Runs and the lease: one job at a time on a project, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from sqlalchemy import func, insert, select, update

from tasks.errors import BusyError
from tasks.store import Store, open_store, schema
from tasks.store.runs import STALE_SECONDS, working
from tests.conftest import ROOT, Database

HOLDER = """
import sys
from tasks.store import open_store
from tasks.store.runs import working
store = open_store(sys.argv[1], sys.argv[2])
with working(store, sys.argv[2], "label", {"limit": 5}):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(database: Database) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease until its stdin is written to or it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, *database],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            child.kill()


def runs(store: Store) -> list[dict[str, Any]]:
    columns = schema.runs.c
    return store.read(select(columns.job, columns.status, columns.result).order_by(columns.id)).to_dicts()


def leases(store: Store) -> int:
    return int(store.scalar(select(func.count()).select_from(schema.lease)))


def write_lease(store: Store, owner: str, age_seconds: float) -> None:
    """A lease as another run would have left it, its last heartbeat `age_seconds` ago."""
    then = time.time() - age_seconds
    with store.begin() as connection:
        connection.execute(
            insert(schema.lease), {"id": 1, "owner": owner, "acquired_at": then, "heartbeat_at": then}
        )


def test_a_run_is_written_with_its_result(store: Store) -> None:
    """While a job works its row says running; afterwards done, with times, parameters and result."""
    with working(store, "tiny", "label", {"limit": 5}) as run:
        assert [row["status"] for row in runs(store)] == ["running"]
        assert leases(store) == 1
        run.result = {"labelled": 3}
    columns = schema.runs.c
    row = store.read(select(columns.id, columns.parameters, columns.started_at, columns.finished_at))
    assert row["id"].to_list() == [run.id]
    assert json.loads(row["parameters"][0]) == {"limit": 5}
    assert row["finished_at"][0] >= row["started_at"][0]
    assert runs(store) == [{"job": "label", "status": "done", "result": '{"labelled": 3}'}]
    assert leases(store) == 0


def test_a_job_may_end_incomplete(store: Store) -> None:
    """What the job sets as its status stands in the row."""
    with working(store, "tiny", "label") as run:
        run.status = "incomplete"
    assert runs(store)[0]["status"] == "incomplete"


@pytest.mark.parametrize("error", [ValueError("no good"), KeyboardInterrupt()])
def test_a_failed_job_says_why_and_frees_the_lease(store: Store, error: BaseException) -> None:
    """An error goes on to the caller, its words to the row, and the next job may start."""

    def fail() -> None:
        with working(store, "tiny", "label"):
            raise error

    with pytest.raises(type(error)):
        fail()
    assert runs(store)[0]["status"] == "failed"
    assert type(error).__name__ in json.loads(runs(store)[0]["result"])["error"]
    assert leases(store) == 0
    with working(store, "tiny", "embed"):
        pass
    assert [row["status"] for row in runs(store)] == ["failed", "done"]


def test_a_job_inside_a_job_shares_its_run(store: Store) -> None:
    """Nested jobs are one row and one lease, and the lease outlives the inner one."""
    with working(store, "tiny", "nightly") as outer:
        with working(store, "tiny", "label") as inner:
            assert inner is outer
        assert leases(store) == 1
        assert runs(store)[0]["status"] == "running"
    assert [row["job"] for row in runs(store)] == ["nightly"]
    assert leases(store) == 0


def test_projects_on_one_server_do_not_share_a_run(postgresql_url: str) -> None:
    """A job of one project inside a job of another has a lease and a row of its own."""
    names = [f"t{uuid.uuid4().hex}" for _ in range(2)]
    one, two = (open_store(postgresql_url, name) for name in names)
    with working(one, names[0], "label") as outer, working(two, names[1], "embed") as inner:
        assert inner is not outer
        assert (leases(one), leases(two)) == (1, 1)
    assert [row["job"] for row in runs(one)] == ["label"]
    assert [row["job"] for row in runs(two)] == ["embed"]
    one.close()
    two.close()


def test_a_second_process_is_told_who_is_at_work(database: Database, store: Store) -> None:
    """BusyError names the project, the host, the process and since when; the holder is not disturbed."""
    with holder(database) as child:
        with pytest.raises(BusyError) as caught, working(store, "tiny", "embed"):
            pytest.fail("two runs held one lease")
        assert caught.value.owner.startswith(f"{socket.gethostname()}:{child.pid}:")
        assert caught.value.owner in str(caught.value)
        assert "project tiny is in use" in str(caught.value)
        assert caught.value.since.endswith("UTC")
        assert caught.value.exit_code == 1
        child.communicate("done\n", timeout=30)
        assert child.returncode == 0
    assert [(row["job"], row["status"]) for row in runs(store)] == [("label", "done")]
    with working(store, "tiny", "embed"):
        assert leases(store) == 1


def test_a_killed_run_is_taken_over_at_once(database: Database, store: Store) -> None:
    """After kill -9 on the same machine the next run starts without waiting, and sweeps the dead one's row."""
    with holder(database) as child:
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
        assert leases(store) == 1
        with working(store, "tiny", "embed"):
            assert runs(store)[0]["status"] == "failed"
    assert [(row["job"], row["status"]) for row in runs(store)] == [("label", "failed"), ("embed", "done")]
    assert "died" in runs(store)[0]["result"]


def test_a_zombie_holds_nothing(database: Database, store: Store) -> None:
    """A killed holder whose parent has not yet asked for its end is dead too."""
    with holder(database) as child:
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and still a zombie
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        with working(store, "tiny", "embed"):
            assert leases(store) == 1


def test_another_machines_run_is_respected_until_it_is_stale(store: Store) -> None:
    """A heartbeat of another host counts for two minutes, not longer."""
    write_lease(store, "elsewhere:1:100.00", STALE_SECONDS - 30)
    with pytest.raises(BusyError, match="elsewhere:1"), working(store, "tiny", "embed"):
        pytest.fail("the lease was fresh")
    with store.begin() as connection:
        connection.execute(update(schema.lease).values(heartbeat_at=time.time() - STALE_SECONDS - 1))
    with working(store, "tiny", "embed"):
        assert store.scalar(select(schema.lease.c.owner)).startswith(socket.gethostname())
    assert STALE_SECONDS == 120


def started(pid: int) -> float:
    return psutil.Process(pid).create_time()


def test_a_number_used_again_is_not_the_old_run(store: Store) -> None:
    """A living process with the dead holder's number, but started at another time, holds nothing."""
    own = os.getpid()
    write_lease(store, f"{socket.gethostname()}:{own}:{started(own) - 500:.2f}", 1)
    with working(store, "tiny", "embed"):
        assert leases(store) == 1


def test_a_living_run_keeps_its_lease_when_the_clock_is_set(store: Store) -> None:
    """A start time that moved by a second with the clock is the same process while its heart beats."""
    own = os.getpid()
    write_lease(store, f"{socket.gethostname()}:{own}:{started(own) + 1:.2f}", 1)
    with pytest.raises(BusyError), working(store, "tiny", "embed"):
        pytest.fail("the holder lives")


def test_a_suspended_run_keeps_its_lease(store: Store) -> None:
    """A process of this machine that exists is not dead, however long its heart was not heard."""
    own = os.getpid()
    write_lease(store, f"{socket.gethostname()}:{own}:{started(own):.2f}", 10 * STALE_SECONDS)
    with pytest.raises(BusyError), working(store, "tiny", "embed"):
        pytest.fail("the holder lives")


def test_runs_left_running_are_swept(store: Store) -> None:
    """Rows that say running without a lease belong to the dead; ended rows are left alone."""
    rows = [
        {"job": job, "status": status, "started_at": 1.0, "parameters": "{}", "result": None}
        for job, status in (("label", "running"), ("embed", "done"), ("clean", "running"))
    ]
    store.append(schema.runs, rows)
    with working(store, "tiny", "report"):
        assert [row["status"] for row in runs(store)] == ["failed", "done", "failed", "running"]
    assert runs(store)[1]["result"] is None


def test_the_heart_stops_with_the_job(store: Store) -> None:
    """No thread of the lease is left when a job has ended."""
    with working(store, "tiny", "label"):
        assert any(thread.name == "lease-heartbeat" for thread in threading.enumerate())
    assert not any(thread.name == "lease-heartbeat" for thread in threading.enumerate())
