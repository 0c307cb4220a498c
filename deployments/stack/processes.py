"""Child processes that are kept up: started in a session of their own, watched, restarted, ended with all they began.

Knows nothing of what the processes are.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import FlywheelError

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
SETTLED_SECONDS = 10.0  # who ran so long starts again at once, however often it fell before
SILENT_SECONDS = 180.0  # a server that runs but has not answered for so long hangs
LOG_BYTES = 20_000_000


class StackError(FlywheelError):
    """A part of the stack did not come up: `part`, `problem`, and the log to look into."""

    def __init__(self, part: str, problem: str, log: Path) -> None:
        self.part, self.problem, self.log = part, problem, log
        super().__init__(f"{part}: {problem}. See {log}{_last_words(log)}")


@dataclass(frozen=True)
class Part:
    """One process of the stack: what to run, where its log goes, and the address that answers when it is up."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    health_url: str | None = None


@dataclass
class Supervised:
    """A part and its running process."""

    part: Part
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    falls: int = 0
    again_at: float | None = None
    heard_at: float = 0.0

    def start(self) -> None:
        """Afterwards the process runs, in a session (and process group) of its own."""
        self.part.log.parent.mkdir(parents=True, exist_ok=True)
        with self.part.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.part.command,
                cwd=self.part.folder,
                env=dict(self.part.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started_at = self.heard_at = time.monotonic()
        self.again_at = None

    def exit_code(self) -> int | None:
        """The exit code if the process has ended, else None."""
        return self.process.poll() if self.process else None

    def answers(self, timeout_seconds: float = 2.0) -> bool:
        """Whether its address answers; True for a part without one."""
        return self.part.health_url is None or answers_ok(self.part.health_url, timeout_seconds)

    def end_if_hung(self, silent_seconds: float = SILENT_SECONDS) -> str | None:
        """Kill it if it runs but has not answered for so long (`revive` starts it again); returns what happened."""
        if self.process is None or self.exit_code() is not None:
            return None
        now = time.monotonic()
        if self.answers():
            self.heard_at = now
        if now - self.heard_at <= silent_seconds:
            return None
        end_group(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return f"{self.part.name} has not answered for {now - self.heard_at:.0f} s and was ended"

    def revive(self) -> str | None:
        """Start it again if it fell and its pause is over; returns what happened, if anything did.

        What a fallen process left running (a server's child on the port, a worker's jobs) is ended first.
        """
        if self.process is None:
            return None
        if self.again_at is None:
            if (code := self.exit_code()) is None:
                return None
            end_group(self.process.pid, signal.SIGKILL)
            self.falls = 1 if time.monotonic() - self.started_at > SETTLED_SECONDS else self.falls + 1
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (self.falls - 1))
            self.again_at = time.monotonic() + pause
            return (
                f"{self.part.name} ended ({_ending(code)}); starting it again in {pause:.0f} s. "
                f"See {self.part.log}"
            )
        if time.monotonic() < self.again_at:
            return None
        self.start()
        return f"{self.part.name} is started again"

    def trim_log(self, most_bytes: int = LOG_BYTES) -> None:
        """Afterwards the log is shorter than that; what was longer lies beside it as `.1`."""
        with suppress(OSError):
            if self.part.log.stat().st_size > most_bytes:
                shutil.copyfile(self.part.log, self.part.log.with_suffix(".log.1"))
                os.truncate(self.part.log, 0)  # the process appends, so it goes on at the beginning


def stop(parts: Sequence[Supervised], grace_seconds: float, hurry: threading.Event | None = None) -> None:
    """Afterwards none of the parts, nor anything they started, runs.

    They are asked first, and killed when the grace is over or somebody is in a hurry.
    """
    hurry = hurry or threading.Event()
    running = [part.process for part in parts if part.process is not None]
    for process in running:
        end_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline and any(group_runs(process.pid) for process in running):
        for process in running:
            process.poll()
        if hurry.wait(0.05):
            break
    for process in running:
        end_group(process.pid, signal.SIGKILL)
        process.wait()


def end_group(group: int, sign: signal.Signals) -> None:
    """Send a signal to all of a process group, if it has any members left."""
    with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        os.killpg(group, sign)


def group_runs(group: int) -> bool:
    """Whether a process group has members (unreaped ones count)."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def answers_ok(url: str, timeout_seconds: float = 2.0) -> bool:
    """Whether the address answers with a success, whatever proxies the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_seconds) as reply:
            return bool(200 <= reply.status < 300)
    except (OSError, ValueError):
        return False


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _last_words(log: Path, lines: int = 5, most_bytes: int = 4_000) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - most_bytes))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    last = [line for line in text.splitlines() if line.strip()][-lines:]
    return ":\n" + "\n".join(f"  {line}" for line in last) if last else ""
