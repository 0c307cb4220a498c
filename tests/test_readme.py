"""The README keeps its word: its commands run, and the demo prints what it shows."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT, TINY_LEAVES
from tests.demo_run import flywheel

pytestmark = pytest.mark.slow
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPE, SERVER = "<!-- the recipe", "<!-- the server"


def shell_blocks() -> Iterator[tuple[str, list[str]]]:
    """Each `sh` block of the README: the comment above it (empty where there is none), and its commands."""
    for match in re.finditer(r"(<!--[^>]*-->\n)?```sh\n(.*?)```", README, re.DOTALL):
        commands = [line.split("#")[0].strip() for line in match[2].splitlines()]
        yield match[1] or "", [command for command in commands if command]


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    """`make demo` is what the demo fixture runs, and `make test` runs these tests."""
    first = next(commands for _, commands in shell_blocks())
    assert first == ["make demo", "make test", "make up"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^demo: \.venv/installed\n\t\.venv/bin/flywheel demo$", makefile, re.MULTILINE)
    assert re.search(r"^test: \.venv/installed\n\t\.venv/bin/python -m pytest tests", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_commands_for_ones_own_history_run(tmp_path: Path) -> None:
    """From a table of old answers to a serving student and a nightly run, word for word as written."""
    rounds = [
        {"text": f"{noun} {size} {colour}", "label": " > ".join(leaf)}
        for leaf, nouns in TINY_LEAVES.items()
        for noun in nouns
        for size in ("small", "large", "family size")
        for colour in ("red", "blue steel", "plain")
    ]
    pl.DataFrame(rounds).write_csv(tmp_path / "history.csv")
    ran = 0
    for comment, commands in shell_blocks():
        if comment or not commands[0].startswith("flywheel"):
            continue
        for command in commands:
            done = flywheel(tmp_path, *shlex.split(command)[1:])
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr[-3000:]}"
            ran += 1
    assert ran >= 6
    status = json.loads(flywheel(tmp_path, "status", "--project", "shop/shop.yaml", "--json").stdout)
    assert status["champion"]["version"] == "1"


def test_the_labelling_recipe_runs(tmp_path: Path) -> None:
    """Five commands against the server as it is started there; again, it asks for nothing twice."""
    leaves = [" > ".join(leaf) for leaf in TINY_LEAVES]
    rows = [{"text": f"thing number {number}", "label": leaves[number % 3]} for number in range(1600)]
    pl.DataFrame(rows).write_csv(tmp_path / "history.csv")
    (recipe,) = (commands for comment, commands in shell_blocks() if comment.startswith(RECIPE))
    ((server,),) = (commands for comment, commands in shell_blocks() if comment.startswith(SERVER))
    assert len(recipe) == 5
    with serving(server.replace("8700", "0"), tmp_path) as base_url:
        commands = [line.replace("http://127.0.0.1:8700/v1", base_url) for line in recipe]
        printed = []
        for command in [*commands[:3], commands[2], *commands[3:]]:
            done = flywheel(tmp_path, *shlex.split(command)[1:], "--json")
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr[-3000:]}"
            printed.append(json.loads(done.stdout))
        with urllib.request.urlopen(base_url.removesuffix("/v1") + "/stats", timeout=30) as stats:
            assert json.load(stats)["paid"] == 3000
    _, planned, labelled, again, exported, imported = printed
    assert (planned["items"], planned["calls"]) == (1500, 3000)
    assert (labelled["items"], labelled["calls"]) == (1500, 3000)
    assert labelled["labelled"] + labelled["disagreed"] == 1500
    assert again["calls"] == 0
    assert exported["rows"] == labelled["disagreed"] > 0
    assert (imported["rows"], imported["empty"]) == (exported["rows"], exported["rows"])


@contextmanager
def serving(command: str, folder: Path) -> Iterator[str]:
    """The address of a simulated teacher that runs while the block does."""
    arguments = [sys.executable, "-m", "deployments.cli", *shlex.split(command)[1:]]
    with subprocess.Popen(arguments, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            assert said.startswith("teacher at http"), said
            yield said.split()[2]
        finally:
            process.terminate()


def test_every_command_is_named(tmp_path: Path) -> None:
    """The README's list of commands is the command line's own."""
    from deployments.cli import COMMANDS

    listed = re.search(r"Commands: `(.*?)`", README, re.DOTALL)
    assert listed is not None
    assert set(listed[1].split()) == set(COMMANDS)
