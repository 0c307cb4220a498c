"""A real PostgreSQL server for the tests: made in a temporary folder, on loopback only, gone at the end.

Uses Debian's binaries. initdb refuses to run as root, so then the server belongs to an unprivileged user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

USER, PASSWORD = "flywheel", "a-secret-word"
ABSENT = "PostgreSQL's initdb and pg_ctl are not installed (Debian: apt-get install postgresql)."
START_ATTEMPTS = 3


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, the newest version first; None where there is none."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda f: f.parent.name.zfill(4))
    if on_path := shutil.which("initdb"):
        folders.insert(0, Path(on_path).resolve().parent)
    return next((f for f in reversed(folders) if (f / "initdb").exists() and (f / "pg_ctl").exists()), None)


@contextmanager
def running_postgres() -> Iterator[str]:
    """A server for as long as the block runs; gives its SQLAlchemy URL (database `postgres`)."""
    folder = binaries()
    assert folder is not None, ABSENT
    # Not pytest's own temporary folder: only its owner may enter that, and socket paths must stay short.
    home = Path(tempfile.mkdtemp(prefix="flywheel-pg-"))
    data, log = home / "data", home / "log"
    identity = _identity(home)

    def call(*command: str | Path) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=home,
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if "initdb" in str(command[0]) else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
            **identity,
        )
        if done.returncode:
            words = log.read_text() if log.exists() else done.stdout
            raise RuntimeError(f"{command[0]} failed:\n{words}")

    try:
        secret = home / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        call(
            folder / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--pwfile", secret,
            "-E", "UTF8", "--locale", "C", "--no-sync",
        )  # fmt: skip
        for attempt in range(START_ATTEMPTS):
            port = _free_port()
            with (data / "postgresql.conf").open("a") as conf:
                conf.write(
                    f"\nport = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{home}'\n"
                    "fsync = off\nfull_page_writes = off\nsynchronous_commit = off\n"
                )
            try:
                call(folder / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "60", "start")
                break
            except RuntimeError:  # somebody took the port in between
                if attempt == START_ATTEMPTS - 1:
                    raise
        try:
            yield f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            call(folder / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _identity(home: Path) -> dict[str, Any]:
    """Whom to run the server as; an unprivileged user when the tests run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(home, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
