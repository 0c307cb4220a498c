"""`flywheel up`: starts the standing stack, says which address is what, keeps it up, and ends all of it.

Knows nothing of how a part is called (parts.py) or kept running (processes.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.stack.parts import Addresses, claim, environment_of, mlflow_server, prefect_server, worker
from deployments.stack.processes import StackError, Supervised, stop
from deployments.stack.projects import fingerprint
from deployments.stack.state import end_leftovers, forget_state, only_one, read_state, write_state
from deployments.stack.zombies import sweep, worker_is_online
from tasks.project import flywheel_home

START_SECONDS = 240.0
JOBS_GRACE_SECONDS = 20.0
SERVERS_GRACE_SECONDS = 10.0
LOOK_SECONDS = 0.5
CONF_SECONDS = 5.0
JOBS_AT_ONCE = max(2, (os.cpu_count() or 1) // 4)

Say = Callable[[str], None]


@dataclass
class Stack:
    """The stack over the project files of `conf`; `run` returns when a signal has ended it."""

    conf: Path
    host: str
    prefect_port: int
    mlflow_port: int
    ending: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)

    def run(self, say: Say) -> dict[str, Any]:
        """Start everything and keep it up until SIGINT or SIGTERM; a second signal does not wait for jobs to end.

        Returns what ran where, under `state` either `stopped` or `already running`.

        Raises:
            ConfigError: a port is in use.
            StackError: a part did not come up.
        """
        say = _unbreakable(say)
        home = flywheel_home()
        with only_one(home) as alone:
            if not alone:
                return _already_running(say)
            if left := end_leftovers():
                say(f"ended what a killed `flywheel up` left running: {', '.join(left)}")
            addresses = claim(self.host, self.prefect_port, self.mlflow_port)
            body = {
                "prefect_api": addresses.prefect_api,
                "prefect_ui": addresses.prefect_ui,
                "mlflow": addresses.mlflow,
            }
            environment = environment_of(addresses, home)
            servers = [
                Supervised(prefect_server(addresses, environment, home)),
                Supervised(mlflow_server(addresses, environment, home)),
            ]
            jobs = Supervised(worker(environment, home, JOBS_AT_ONCE))
            parts = [*servers, jobs]
            with self._signals():
                try:
                    self._start(servers, jobs, addresses, body, say)
                    self._keep_up(parts, jobs, addresses, body, say)
                finally:
                    self._stop(servers, jobs, addresses, say)
                    forget_state()
        return {"state": "stopped", **body}

    def _start(
        self,
        servers: list[Supervised],
        jobs: Supervised,
        addresses: Addresses,
        body: dict[str, Any],
        say: Say,
    ) -> None:
        began = time.monotonic()
        logs = jobs.part.log.parent
        say(f"starting; logs are in {logs}")
        for server in servers:
            server.start()
        write_state(body | {"ready": False}, servers)
        with self._registration(jobs) as registration:
            for server in servers:
                self._wait(server, server.answers, began)
            if self.ending.is_set():
                return
            say(f"Prefect   {addresses.prefect_ui}   jobs to start by hand, schedules, runs")
            say(f"MLflow    {addresses.mlflow}   experiments and models")
            if not addresses.is_loopback:
                say(
                    f"          listening on {self.host}: whoever reaches this machine can start jobs and read models"
                )
            _swept(addresses.prefect_api, "flywheel up had ended before this run did", say)
            self._finish(registration, logs / "register.log", say)
        if self.ending.is_set():
            return
        jobs.start()
        write_state(body | {"ready": False}, [*servers, jobs])
        self._wait(jobs, lambda: worker_is_online(addresses.prefect_api), began)
        if not self.ending.is_set():
            write_state(body | {"ready": True}, [*servers, jobs])
            say(f"worker    up to {JOBS_AT_ONCE} jobs at a time")
            say(f"ready after {time.monotonic() - began:.0f} s; Ctrl-C stops all of it")

    def _wait(self, part: Supervised, ready: Callable[[], bool], began: float) -> None:
        while not self.ending.wait(0.2):
            with suppress(OSError):
                if ready():
                    return
            if part.exit_code() is not None:
                raise StackError(
                    part.part.name, f"ended while starting (exit code {part.exit_code()})", part.part.log
                )
            if time.monotonic() - began > START_SECONDS:
                raise StackError(part.part.name, f"is not up after {START_SECONDS:.0f} s", part.part.log)

    def _keep_up(
        self, parts: list[Supervised], jobs: Supervised, addresses: Addresses, body: dict[str, Any], say: Say
    ) -> None:
        known, looked = fingerprint(self.conf), time.monotonic()
        while not self.ending.wait(LOOK_SECONDS):
            for part in parts:
                if happened := part.revive():
                    say(happened)
                    write_state(body | {"ready": True}, parts)
                    if part is jobs:
                        _swept(addresses.prefect_api, "the worker ended while this run was on", say)
            if time.monotonic() - looked < CONF_SECONDS:
                continue
            looked = time.monotonic()
            for part in parts:
                part.trim_log()
            if (now := fingerprint(self.conf)) != known:
                known = now
                with self._registration(jobs) as registration:
                    self._finish(registration, jobs.part.log.parent / "register.log", say, fatal=False)

    def _stop(self, servers: list[Supervised], jobs: Supervised, addresses: Addresses, say: Say) -> None:
        self.ending.set()
        say("stopping")
        stop([jobs], JOBS_GRACE_SECONDS, self.hurry)
        if servers[0].exit_code() is None and servers[0].answers():
            _swept(addresses.prefect_api, "flywheel up was stopped while this run was on", say)
        stop(servers, SERVERS_GRACE_SECONDS, self.hurry)

    @contextmanager
    def _registration(self, jobs: Supervised) -> Iterator[subprocess.Popen[str]]:
        """The program that registers the deployments, running; ended at the latest with the block."""
        api = jobs.part.environment["PREFECT_API_URL"]
        jobs.part.log.parent.mkdir(parents=True, exist_ok=True)
        with (jobs.part.log.parent / "register.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deployments.stack.register", str(self.conf), api],
                env=dict(jobs.part.environment),
                cwd=jobs.part.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def _finish(self, registration: subprocess.Popen[str], log: Path, say: Say, fatal: bool = True) -> None:
        """Wait for the registration and say what it did.

        Raises:
            StackError: it failed, and `fatal`.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self.ending.is_set() and time.monotonic() < deadline:
            try:
                printed, _ = registration.communicate(timeout=LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            try:
                done = json.loads(printed.strip().splitlines()[-1])
            except (ValueError, IndexError):
                break
            say(
                f"projects  {', '.join(done['projects']) or f'none in {self.conf}: `flywheel init` writes one'}"
            )
            for sentence in done["broken"]:
                say(f"skipped   {sentence}")
            if done["removed"]:
                say(f"removed   {', '.join(done['removed'])}: the project file is gone")
            return
        if self.ending.is_set():
            return
        error = StackError("deployments", "could not be registered", log)
        if fatal:
            raise error
        say(str(error))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def end(*_: object) -> None:
            (self.hurry if self.ending.is_set() else self.ending).set()

        before = {sign: signal.signal(sign, end) for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for sign, old in before.items():
                signal.signal(sign, old)


def _already_running(say: Say) -> dict[str, Any]:
    state = read_state()
    say("flywheel up is running already" if state.get("ready") else "flywheel up is just starting elsewhere")
    for name, key in (("Prefect", "prefect_ui"), ("MLflow", "mlflow")):
        if key in state:
            say(f"{name:<9} {state[key]}")
    shown = ("prefect_api", "prefect_ui", "mlflow", "pid", "ready")
    body: dict[str, Any] = {key: state[key] for key in shown if key in state}
    return body | {"state": "already running"}


def _swept(api: str, reason: str, say: Say) -> None:
    try:
        names = sweep(api, reason)
    except OSError as error:
        say(f"runs without a process could not be looked up ({error})")
        return
    if names:
        say(f"crashed   {', '.join(names)}: {reason}")


def _unbreakable(say: Say) -> Say:
    def said(line: str) -> None:
        with suppress(OSError):  # the terminal may be gone, and what runs must be ended all the same
            say(line)

    return said
