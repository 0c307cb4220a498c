"""What a command prints and how it ends: lines for people, or one JSON object; exit codes; errors as sentences."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from deployments.environment import end_orphaned_servers, prepare
from tasks.errors import FlywheelError
from tasks.project import load_project

DONE, FAILED, WRONG_USAGE, INCOMPLETE = 0, 1, 2, 3


@dataclass(frozen=True)
class Outcome:
    """What a command has to say: the JSON object, the lines for people, and the exit code."""

    body: Mapping[str, Any]
    text: str
    exit_code: int = DONE


def command(
    needs_project: bool = True,
) -> Callable[[Callable[..., Outcome]], Callable[..., None]]:
    """Gives a command `--project`, `--json`, `--verbose`; prints its outcome and exits with its code.

    With `--json` stdout carries one line and nothing else, whatever libraries print: file descriptor 1 points at
    stderr while the command works.
    """

    def decorate(work: Callable[..., Outcome]) -> Callable[..., None]:
        @click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object on one line, nothing else."
        )
        @click.option("--verbose", is_flag=True, help="Show the orchestrator's log.")
        @wraps(work)
        def run(*, as_json: bool, verbose: bool, **options: Any) -> None:
            prepare(verbose)
            stdout = _stdout_to_stderr() if as_json else None
            try:
                if needs_project:
                    load_project(options["project"])  # a mistake there is told before an engine is started
                    end_orphaned_servers()
                outcome = work(**options)
            except FlywheelError as error:
                outcome = Outcome({"error": str(error)}, "", error.exit_code)
                click.echo(f"error: {error}", err=True)
            if stdout is not None:
                sys.stdout.flush()
                line = json.dumps(dict(outcome.body), ensure_ascii=False, default=str)
                os.write(stdout, (line + "\n").encode())
            elif outcome.text:
                click.echo(outcome.text)
            sys.exit(outcome.exit_code)

        if needs_project:
            return click.option(
                "--project",
                envvar="FLYWHEEL_PROJECT",
                required=True,
                type=click.Path(dir_okay=False),
                help="The project file, conf/NAME.yaml (or FLYWHEEL_PROJECT).",
            )(run)
        return run

    return decorate


def _stdout_to_stderr() -> int:
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    return saved


def shown(rows: Mapping[str, Any]) -> str:
    """Name and value a line, aligned."""
    width = max((len(name) for name in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())
