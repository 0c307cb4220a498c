"""The README keeps its word: its commands run, and the demo prints what it shows."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT, TINY_LEAVES
from tests.demo_run import Demo, demo, flywheel

__all__ = ["demo"]
pytestmark = pytest.mark.slow
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_RUN = "<!-- not run by the test"


def shell_blocks() -> Iterator[tuple[bool, list[str]]]:
    """Each `sh` block of the README: whether a test runs it, and its commands."""
    for match in re.finditer(r"(<!--[^>]*-->\n)?```sh\n(.*?)```", README, re.DOTALL):
        commands = [line.split("#")[0].strip() for line in match[2].splitlines()]
        yield not (match[1] or "").startswith(NOT_RUN), [command for command in commands if command]


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    """`make demo` is what the demo fixture runs, and `make test` runs these tests."""
    first = next(commands for _, commands in shell_blocks())
    assert first == ["make demo", "make test"]
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
    for runs, commands in shell_blocks():
        if not runs or not commands[0].startswith("flywheel"):
            continue
        for command in commands:
            done = flywheel(tmp_path, *shlex.split(command)[1:])
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr[-3000:]}"
            ran += 1
    assert ran >= 6
    status = json.loads(flywheel(tmp_path, "status", "--project", "shop/shop.yaml", "--json").stdout)
    assert status["champion"]["version"] == "1"


def test_every_command_is_named(tmp_path: Path) -> None:
    """The README's list of commands is the command line's own."""
    from deployments.cli import COMMANDS

    listed = re.search(r"Commands: `(.*?)`", README, re.DOTALL)
    assert listed is not None
    assert set(listed[1].split()) == set(COMMANDS)


def test_the_demo_prints_what_the_readme_shows(demo: Demo) -> None:
    """Every line of the shown table is a line of the printed one, numbers aside."""
    shown = re.search(r"```text\nAccuracy on(.*?)```", README, re.DOTALL)
    assert shown is not None
    printed = {_wording(line) for line in demo.printed.splitlines()}
    missing = [
        line
        for line in ("Accuracy on" + shown[1]).splitlines()
        if line.strip() and _wording(line) not in printed
    ]
    optional = ("Cleaning changed", "Cleaning did not help")
    assert [line for line in missing if not line.strip().startswith(optional)] == []


def _wording(line: str) -> str:
    """A line without its numbers: what stays the same from run to run."""
    return re.sub(r"[\d.,%+-]+|\bto\b", "", " ".join(line.split())).replace(" ", "")[:40]


def test_the_demo_keeps_its_promise_and_says_what_it_saw(demo: Demo) -> None:
    """Both turns are routed, true errors stand beside audited ones, and numbers agree with the database."""
    turns = demo.numbers["turns"]
    assert len(turns) == 2
    assert all(sum(turn["tiers"].values()) == 1500 for turn in turns)
    answered = sum(turn["answered"] for turn in turns)
    wrong = sum(turn["true_wrong"] for turn in turns)
    assert answered > 300, "the student answers a good part of the traffic"
    assert wrong / answered < 0.05, "the certified target"
    from sqlalchemy import func, select

    from tasks.store import open_store, schema

    store = open_store(demo.project.database_url, demo.project.project)
    paid = store.scalar(select(func.sum(schema.calls.c.cost_usd)))
    assert sum(stage["cost_usd"] for stage in demo.numbers["spending"].values()) == pytest.approx(paid)


def test_the_demos_report_is_one_page_with_its_figures(demo: Demo) -> None:
    """The report stands alone: nothing is loaded from elsewhere, and the three figures are in it."""
    page = Path(demo.numbers["places"]["report"]).read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=[\"']https?:", page)
    assert page.count("data:image") >= 3
    assert "confus" in page
    assert "scalat" in page


def test_a_night_with_nothing_new_changes_nothing(demo: Demo) -> None:
    """After the demo a nightly run ends as `changed: false`, with no teacher there to be asked."""
    again = flywheel(demo.home, "nightly", "--project", str(demo.project_file), "--json")
    assert again.returncode == 0, again.stderr[-2000:]
    [line] = again.stdout.splitlines()
    first = json.loads(line)
    second = json.loads(flywheel(demo.home, "nightly", "--project", str(demo.project_file), "--json").stdout)
    assert second["changed"] is False
    assert second["label"]["calls"] == 0
    assert first["route"]["items"] == 0
