"""What `flywheel label` prints for people about a run: agreement, remedies, batches, gold that is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from deployments.teacher_sim import TeacherServer
from tasks.cleaning.steps import clean_snapshot
from tasks.project import load_project
from tasks.student.steps import take_snapshot
from tests.conftest import TINY_LEAVES
from tests.deployments.commands import flywheel

pytestmark = pytest.mark.slow
LEAVES = [" > ".join(leaf) for leaf in TINY_LEAVES]


def _answers(file: Path) -> dict[str, list[str | None]]:
    """Two passes; the second takes most shirts for shoes, and one item gets an answer outside the taxonomy."""
    frame = pl.read_parquet(file.parent / "answers.parquet")
    said: dict[str, list[str | None]] = {}
    for number, (text, right, _) in enumerate(frame.iter_rows()):
        second = LEAVES[5] if right == LEAVES[4] and number % 5 else right
        said[text] = ["Toys > Dolls"] * 2 if number == 7 else [right, second]
    return said


def test_the_text_tells_of_agreement_failures_and_gold(
    tiny_project: Callable[..., Path], tmp_path: Path
) -> None:
    """Agreement by level and on the worst labels, the remedy of a failure, gold rows that are none; tokens as used."""
    file = tiny_project()
    gold = pl.read_parquet(file.parent / "gold.parquet")
    empty = gold.head(2).with_columns(id=pl.Series(["e1", "e2"]), name=pl.lit(" "))
    pl.concat([gold, empty]).write_parquet(file.parent / "gold.parquet")
    with TeacherServer(_answers(file)) as server:
        file.write_text(file.read_text().replace("http://127.0.0.1:9/v1", server.base_url))
        said = flywheel("label", "--project", file, cwd=tmp_path)
        used = server.stats()
    assert said.code == 3, said.err  # one item has no valid answer
    assert re.search(r"^  agreement +8\d\.\d%, Cohen's kappa 0\.[78]\d\d$", said.out, re.MULTILINE)
    assert re.search(r"^  by level +department 100\.0%, category 8\d\.\d%$", said.out, re.MULTILINE)
    assert re.search(
        r"^  least on +Clothing > Shirts 20% of 10; Clothing > Shoes \d\d% of 1\d$", said.out, re.MULTILINE
    )
    assert re.search(r"^  gold rows left out +empty text: 2$", said.out, re.MULTILINE)
    assert "unknown_label: The model invents labels: " in said.out
    tokens = (
        f"{used['prompt_tokens']:,} in ({used['cached_tokens']:,} cached), {used['completion_tokens']:,} out"
    )
    assert re.search(rf"^  tokens +{re.escape(tokens)}$", said.out, re.MULTILINE)
    (rejected,) = (tmp_path / "home").rglob("rejected/gold-run-*.csv")
    assert rejected.read_text().count("empty text") == 2
    project = load_project(file)
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    assert cleaned.snapshot.gold_rejected == {"empty text": 2}


def test_batches_that_are_not_waited_for_are_told_of(
    tiny_project: Callable[..., Path], tmp_path: Path
) -> None:
    """By the run that sends them, which has left everything unlabelled."""
    file = tiny_project()
    with TeacherServer(_answers(file), batch_seconds=600) as server:
        file.write_text(file.read_text().replace("http://127.0.0.1:9/v1", server.base_url))
        sent = flywheel("label", "--project", file, "--batch", "--no-wait", cwd=tmp_path)
    assert sent.code == 3, sent.err
    assert "120 requests wait in batches; any later `flywheel label` fetches what has ended" in sent.out
    assert re.search(r"^  batches +1 submitted, 0 fetched, 1 open$", sent.out, re.MULTILINE)
