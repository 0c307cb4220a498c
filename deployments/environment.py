"""The environment a process needs before an orchestrator or a tracker is imported: homes, telemetry, quiet.

Nothing here is imported or opened; it only sets variables that are not set yet.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from urllib.parse import urlparse

from tasks.project import flywheel_home

DEFAULTS = {
    # A first start on a busy machine takes longer than the default of 20 seconds.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # By itself its client tries for four minutes at each call; whole steps are tried again here (tasks/retries.py).
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
}


def prepare(verbose: bool = False) -> None:
    """Set what is not set; point at `flywheel up`'s Prefect server when it answers."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    home = flywheel_home() / "var" / "prefect"
    os.environ.setdefault("PREFECT_HOME", str(home))
    home.parent.mkdir(
        parents=True, exist_ok=True
    )  # Prefect makes its home, but warns where the parent is missing
    # An error is printed once, as a sentence, by the command itself; the engine would add two tracebacks.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "ERROR")
    if "PREFECT_API_URL" not in os.environ and (url := running_api()):
        os.environ["PREFECT_API_URL"] = url
        # So that the page of a run that a command starts has the same links and figures as the worker's.
        os.environ.setdefault("FLYWHEEL_MLFLOW_UI", _of_stack("mlflow_ui"))


def end_orphaned_servers() -> int:
    """End temporary Prefect servers of this home whose command was killed; returns how many.

    A command that dies by kill -9 cannot end the server it started; the next one does it, so that they do not
    pile up at 200 MB each.
    """
    import psutil

    if any(word in " ".join(psutil.Process(1).cmdline()) for word in ("flywheel", "deployments.cli")):
        return 0  # in a container a living command may be process 1, and its server's parent
    ended = 0
    for process in psutil.process_iter(["ppid", "cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if process.info["ppid"] != 1 or "prefect.server.api.server" not in words:
            continue
        try:
            if process.environ().get("PREFECT_HOME") == os.environ["PREFECT_HOME"]:
                process.terminate()
                ended += 1
        except psutil.Error:
            continue  # it ended by itself, or is another user's
    return ended


def stack_file() -> Path:
    """Where `flywheel up` says what it runs."""
    return flywheel_home() / "var" / "up.json"


def running_api() -> str | None:
    """The API address of `flywheel up`'s Prefect server, if it accepts connections."""
    url = _of_stack("prefect_api")
    return url if url and answers(url) else None


def _of_stack(name: str) -> str:
    """An address that `flywheel up` wrote down; empty where there is none."""
    try:
        return str(json.loads(stack_file().read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, KeyError):
        return ""


def answers(url: str, timeout_seconds: float = 0.5) -> bool:
    """Whether something accepts connections at the address."""
    parsed = urlparse(url)
    try:
        with socket.create_connection((parsed.hostname or "127.0.0.1", parsed.port or 80), timeout_seconds):
            return True
    except OSError:
        return False
