"""The command that takes a student out of the house: `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployments.commands.watch import opened
from deployments.output import Outcome, command, shown

if TYPE_CHECKING:
    from tasks.student.onnx_export import Exported


@click.command(name="export")
@click.option(
    "--format",
    "form",
    default="onnx",
    show_default=True,
    type=click.Choice(["onnx"]),
    help="What the student is written as.",
)
@click.option("--version", default="champion", show_default=True, help="champion, challenger or a number.")
@click.option("--int8", is_flag=True, help="A smaller graph as well, with weights of eight bits.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder.")
@command()
def export_command(project: str, form: str, version: str, int8: bool, out: Path) -> Outcome:
    """Write a version for programs without this package: graph, labels, thresholds, and a page on how to use them.

    Nothing is written that does not answer as the student does.
    """
    from tasks.promotion.exporting import export_version

    with opened(project) as (settings, store):
        exported = export_version(settings, store, version, out, int8)
    return Outcome(exported.as_dict(), written(exported))


def written(exported: Exported) -> str:
    """The same for people, a line each."""
    files = {name: f"{size / 1024:,.0f} KB" for name, size in exported.files.items()}
    exact = exported.float32
    lines = [
        f"version {exported.model_version} ({exported.student}) in {exported.folder}",
        shown(files),
        f"checked on {exact.rows:,} items: probabilities within {exact.largest:.1e} of the student's",
    ]
    rough = exported.int8
    if rough is not None:
        decided = "" if rough.same_decision is None else f", the same decision on {rough.same_decision:.1%}"
        lines.append(
            f"int8: probabilities within {rough.largest:.1e} (mean {rough.mean:.1e}), the same answer on "
            f"{rough.same_answer:.1%}{decided}"
        )
    return "\n".join(lines)
