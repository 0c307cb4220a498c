"""Commands of a first day: init writes the project's files, check tries everything they name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployments.output import Outcome, command

if TYPE_CHECKING:
    from tasks.monitoring.findings import Check

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@click.command(name="init")
@click.argument("name")
@click.option("--items", help="The items: parquet, csv, jsonl, a glob of them, or an image folder.")
@click.option("--labelled", type=click.Path(dir_okay=False, path_type=Path), help="A table that has labels.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="By default conf/NAME.yaml.")
@click.option("--levels", default="", help="Names of the levels by comma, from the root down.")
@click.option("--text-column", help="The column that holds the item; guessed if not given.")
@click.option("--id-column", help="The column that names it; guessed if not given.")
@click.option("--modality", type=click.Choice(["text", "image"]), help="Guessed if not given.")
@click.option("--encoder", help="Hub name, local folder or package:NAME; the template's if not given.")
@click.option("--base-url", help="The teacher's OpenAI-compatible API; the template's if not given.")
@click.option("--model", help="The teacher's model; the template's if not given.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@command(needs_project=False)
def init_command(
    name: str,
    items: str | None,
    labelled: Path | None,
    out: Path | None,
    levels: str,
    text_column: str | None,
    id_column: str | None,
    modality: str | None,
    encoder: str | None,
    base_url: str | None,
    model: str | None,
    force: bool,
) -> Outcome:
    """Write a commented project file, and the taxonomy too where there is a table with labels."""
    from deployments.starting import plan_project, write
    from tasks.errors import ConfigError

    if not NAME.fullmatch(name):
        remedy = "Use small letters, digits, - and _, at most 63."
        raise ConfigError("command line", f"{name!r} cannot name a project", remedy, "NAME")
    place = out or Path("conf") / f"{name}.yaml"
    named = [level.strip() for level in levels.split(",") if level.strip()]
    wanted = (modality, id_column, text_column)
    plan = plan_project(name, place, items, labelled, named, wanted, encoder, (base_url, model))
    written = write(plan, force)
    return Outcome(plan.as_dict(written), plan.text(written))


@click.command(name="check")
@click.option("--no-teacher", is_flag=True, help="Do not send the teacher a request.")
@command()
def check_command(project: str, no_teacher: bool) -> Outcome:
    """Try everything the project file names; say what holds, and what to do about the rest.

    Each model is sent one real request about the first item. Exit code 2: the project's files are wrong; 1: only
    something outside them fails (a teacher, the database).
    """
    from tasks.monitoring.checks import check_project, exit_code

    checks = check_project(project, ask_teacher=not no_teacher)
    code = exit_code(checks)
    body = {"ok": code == 0, "checks": [check.as_dict() for check in checks]}
    return Outcome(body, render_checks(checks), code)


def render_checks(checks: Sequence[Check]) -> str:
    """A line a check with its mark, and below it what to do."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = ("!" if check.remedy else "✓") if check.ok else "✗"
        lines.append(f"{mark} {check.name:<{width}}  {check.detail}")
        if check.remedy:
            lines.append(f"  {'':<{width}}  → {check.remedy}")
    wrong = sum(not check.ok for check in checks)
    lines.append("all of it holds" if not wrong else f"{wrong} of {len(checks)} do not hold")
    return "\n".join(lines)
