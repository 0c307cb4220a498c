"""The command `flywheel demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from deployments.output import Outcome, command


@click.command(name="demo")
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A labelled table instead: text, label or l1..l3.",
)
@click.option("--images", is_flag=True, help="Handwritten digits and an image model instead.")
@click.option(
    "--noise",
    default=0.15,
    show_default=True,
    type=click.FloatRange(0, 0.9),
    help="Share of wrong teacher answers.",
)
@click.option(
    "--items", default=6000, show_default=True, type=click.IntRange(min=200), help="Items to label."
)
@click.option(
    "--review-rows", default=300, show_default=True, type=click.IntRange(min=0), help="Rows reviewed a turn."
)
@click.option(
    "--reviewer-error",
    default=0.03,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of wrong reviews.",
)
@click.option("--seed", default=0, show_default=True)
@command(needs_project=False)
def demo_command(
    data: Path | None,
    images: bool,
    noise: float,
    items: int,
    review_rows: int,
    reviewer_error: float,
    seed: int,
) -> Outcome:
    """Turn the wheel twice, without a key, and print what came of it.

    The demo's own folder under var/ is made anew each time.
    """
    from deployments.demo.scene import catalogue_scene, digits_scene, forget, labelled_scene, project_name
    from deployments.demo.table import as_dict, render, write
    from deployments.demo.turn import free_port, turn_twice
    from tasks.project import flywheel_home, load_project

    started, port, home = time.monotonic(), free_port(), flywheel_home()

    def say(line: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.0f} s] {line}", err=True)
        sys.stderr.flush()

    say("making the data and the teacher's answers")
    if data is not None and images:
        raise click.UsageError("--data and --images exclude each other")
    if data is not None:
        forget(home, project_name(data))
        scene = labelled_scene(home, data, noise, seed, port, items)
    elif images:
        forget(home, "digits")
        scene = digits_scene(home, noise, seed, port)
    else:
        forget(home, "catalogue")
        scene = catalogue_scene(home, noise, seed, port, items)
    result = turn_twice(scene, port, reviewer_error, review_rows, seed, say)
    say("done")
    write(result, load_project(scene.project_file).root / "demo.json")
    return Outcome(as_dict(result), render(result))
