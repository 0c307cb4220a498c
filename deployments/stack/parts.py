"""The three processes of the stack: how Prefect's server, MLflow's server and the worker are called.

Knows nothing of how they are kept up.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.stack.databases import PREFECT_DATABASE, Databases
from deployments.stack.processes import Part
from tasks.errors import ConfigError
from tasks.project import with_driver

POOL = "flywheel"
JOBS_AT_ONCE = max(2, (os.cpu_count() or 1) // 4)
FILES = Databases()
MLFLOW_UI = "FLYWHEEL_MLFLOW_UI"
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


@dataclass(frozen=True)
class Addresses:
    """Where the two servers listen, as a browser on this machine calls them."""

    host: str
    prefect_port: int
    mlflow_port: int

    @property
    def prefect_ui(self) -> str:
        """The jobs: deployments, schedules, runs."""
        return f"http://{_called(self.host)}:{self.prefect_port}"

    @property
    def prefect_api(self) -> str:
        """What `PREFECT_API_URL` is set to."""
        return f"{self.prefect_ui}/api"

    @property
    def mlflow(self) -> str:
        """The experiments and the models."""
        return f"http://{_called(self.host)}:{self.mlflow_port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can call."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def claim(host: str, prefect_port: int, mlflow_port: int) -> Addresses:
    """The addresses to use; port 0 takes a free one.

    Raises:
        ConfigError: a port is in use, or the host is not one of this machine's.
    """
    if prefect_port and prefect_port == mlflow_port:
        raise ConfigError(
            "command line", f"both servers cannot have port {mlflow_port}", "Give them two ports."
        )
    with (
        _bound(host, prefect_port, "--prefect-port") as prefect,
        _bound(host, mlflow_port, "--mlflow-port") as mlflow,
    ):
        return Addresses(host, prefect.getsockname()[1], mlflow.getsockname()[1])


def _bound(host: str, port: int, option: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError(
            "command line", f"--host {host} is no address ({error.strerror})", "Use 127.0.0.1."
        ) from error
    probe = socket.socket(family, kind, protocol)
    probe.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # a port that only waits out its last talk is free
    try:
        probe.bind(address)
        probe.listen(1)
    except OSError as error:
        probe.close()
        raise ConfigError(
            "command line",
            f"port {port} on {host} cannot be used ({error.strerror})",
            f"Stop what uses it, or choose another with {option}.",
        ) from error
    return probe


def prefect_server(
    addresses: Addresses, environment: Mapping[str, str], home: Path, databases: Databases = FILES
) -> Part:
    """Prefect's API, scheduler and UI in one process; a file as its database lies under `var/prefect-server`."""
    own = {
        "PREFECT_HOME": str(home / "var" / "prefect-server"),
        "PREFECT_SERVER_API_HOST": addresses.host,
        "PREFECT_SERVER_API_PORT": str(addresses.prefect_port),
        # A browser on another machine must call the address it came by, not this machine's loopback.
        "PREFECT_UI_API_URL": addresses.prefect_api if addresses.is_loopback else "/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    if databases.for_prefect is not None:
        own["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = databases.for_prefect
    chosen = "PREFECT_UI_API_URL"
    if chosen in environment:
        own[chosen] = environment[chosen]
    command = [sys.executable, "-m", "prefect", "server", "start"]
    return _part("prefect-server", command, environment, own, home, f"{addresses.prefect_api}/health")


def mlflow_server(
    addresses: Addresses, environment: Mapping[str, str], home: Path, databases: Databases = FILES
) -> Part:
    """MLflow over the very database and folder that jobs write into directly."""
    artifacts = str(home / "var" / "mlartifacts")
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", addresses.host, "--port", str(addresses.mlflow_port)]
    command += ["--default-artifact-root", artifacts, "--artifacts-destination", artifacts]
    own = {
        # Not on the command line, which everybody on the machine can read: a password may stand in it.
        "MLFLOW_BACKEND_STORE_URI": with_driver(
            databases.mlflow or f"sqlite:///{home / 'var' / 'mlflow.db'}", "psycopg"
        ),
        # Its job runner is for judging traces with language models: five more processes that nobody here asks.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return _part("mlflow-server", command, environment, own, home, f"{addresses.mlflow}/health")


def worker(environment: Mapping[str, str], home: Path) -> Part:
    """The worker that starts the jobs, each in a process of its own.

    How many at a time is the pool's limit: with a limit of its own a worker falls over a suspended run that is resumed
    before its first process has ended (Prefect 3.8).
    """
    query = "PREFECT_WORKER_QUERY_SECONDS"
    own = {"PREFECT_LOGGING_LEVEL": "INFO", query: environment.get(query, "5")}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    command += ["--name", f"flywheel on {socket.gethostname()}"]
    return _part("worker", command, environment, own, home, None)


def environment_of(addresses: Addresses, home: Path) -> dict[str, str]:
    """What all parts, and through the worker all jobs, find in their environment."""
    inherited = {name: value for name, value in os.environ.items() if name != PREFECT_DATABASE}
    return {
        **inherited,
        "FLYWHEEL_HOME": str(home),
        "PREFECT_API_URL": addresses.prefect_api,
        # What links on a run's page begin with; a browser on another machine knows this one by a name of its own.
        MLFLOW_UI: inherited.get(MLFLOW_UI) or addresses.mlflow,
        "PYTHONUNBUFFERED": "1",
        # Jobs work in the home folder, where a `tasks` of somebody else's must not stand before ours.
        "PYTHONSAFEPATH": "1",
    }


def _part(
    name: str,
    command: list[str],
    environment: Mapping[str, str],
    own: Mapping[str, str],
    home: Path,
    health_url: str | None,
) -> Part:
    log = home / "var" / "logs" / f"{name}.log"
    return Part(name, command, {**environment, **own}, home, log, health_url)


def _called(host: str) -> str:
    name = ANYWHERE.get(host, host)
    return f"[{name}]" if ":" in name else name
