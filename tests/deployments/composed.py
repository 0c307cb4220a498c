"""The compose file as its services would see it, and its commands as processes of this machine.

Where Compose gives each service a host name, a port and a volume, here are loopback, a free port and a folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

CONTAINERS = ROOT / "deployments" / "containers"
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def services(values: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services with every variable filled in.

    Args:
        values: what `.env` would say.

    Raises:
        KeyError: a variable that must be set is not.
    """

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if values.get(name):
            return values[name]
        if kind == "-":
            return str(rest)
        raise KeyError(name)

    text = VARIABLE.sub(fill, (CONTAINERS / "compose.yaml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


def written() -> dict[str, Any]:
    """The compose file as it stands."""
    body: dict[str, Any] = yaml.safe_load((CONTAINERS / "compose.yaml").read_text(encoding="utf-8"))
    return body


class Service:
    """One service's command and health check, run here.

    Args:
        body: as `services` gives it.
        home: stands for `/flywheel`.
        places: what is written in the file to what it is here: `mlflow:5000` to `127.0.0.1:40123`, longer ones first.
        passed: what Compose passes on where a variable has no value.
    """

    def __init__(
        self,
        name: str,
        body: Mapping[str, Any],
        home: Path,
        places: Mapping[str, str],
        passed: Mapping[str, str],
    ) -> None:
        self.name, self.body, self.home, self.places = name, body, home, places
        kept = {variable: os.environ[variable] for variable in ("PATH", "OMP_NUM_THREADS", "HF_HUB_OFFLINE")}
        given = {
            variable: self._here(str(passed.get(variable, "") if value is None else value))
            for variable, value in body.get("environment", {}).items()
        }
        # What the image sets beside them.
        self.environment = (
            kept | {"HOME": str(home), "FLYWHEEL_HOME": str(home), "PYTHONSAFEPATH": "1"} | given
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.home / f"{self.name}.log"

    def start(self) -> None:
        """Afterwards the command runs in the home folder."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(self.body["command"]), cwd=self.home, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def healthy(self) -> bool:
        """What its health check says."""
        how, *command = self.body["healthcheck"]["test"]
        assert how == "CMD"
        done = subprocess.run(
            self._command(command), env=self.environment, capture_output=True, timeout=30, check=False
        )
        return done.returncode == 0

    def wait(self, seconds: float = 180) -> None:
        """Afterwards it is healthy."""
        deadline = time.monotonic() + seconds
        while not self.healthy():
            ended = self.process is not None and self.process.poll() is not None
            assert not ended, f"{self.name} ended:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{self.name} is not healthy:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.5)

    def _here(self, text: str) -> str:
        there = "|".join(rf"(?<!\d){re.escape(place)}(?!\d)" for place in self.places)
        return re.sub(
            there, lambda found: self.places[found[0]], re.sub(r"^/flywheel\b", str(self.home), text)
        )

    def _command(self, command: list[str]) -> list[str]:
        first = sys.executable if command[0] == "python" else command[0]
        return [first, *(self._here(word) for word in command[1:])]


@contextmanager
def running(service: Service) -> Iterator[Service]:
    """The service while the block runs; all it started is ended with it."""
    service.start()
    try:
        service.wait()
        yield service
    finally:
        end(service)


def end(service: Service) -> None:
    """Afterwards neither the process nor anything in its group runs, as where a container is killed."""
    from deployments.stack.processes import Part, Supervised, stop

    assert service.process is not None
    part = Part(service.name, [], {}, service.home, service.log)
    stop([Supervised(part, service.process)], 10)
