"""The benchmark of adjudication runs, and its columns are what they say."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from tasks.student.package import Answers
from tests.benchmarks.adjudication import Population, main, measure, oracle, report
from tests.student.test_weighted_bounds import Traffic, path_of


@pytest.fixture(scope="module")
def people() -> Population:
    traffic = Traffic(4000, 1)
    answers = Answers(["a"] * 4000, np.zeros(4000, np.int32), traffic.confidences)
    truth = np.where(traffic.wrong, "b", "a").tolist()
    return Population("made", path_of(1000), answers, truth, np.where(traffic.differs, "b", "a").tolist())


def test_it_prints_every_form_and_what_it_may_miss(
    people: Population, capsys: pytest.CaptureFixture[str]
) -> None:
    report(people, Namespace(targets=[0.1], confidences=[0.9], sizes=[400], draws=4, seed=0, share=None))
    heading, columns, cell = capsys.readouterr().out.splitlines()
    assert "made: 4000 rows" in heading
    assert [columns.count(form) for form in ("one-stage", "two-stage", "as many", "teacher's")] == [1] * 4
    assert cell.split()[:3] == ["10%", "0.90", "400"]


def test_two_stages_cost_less_and_the_oracle_covers_most(people: Population) -> None:
    """No form covers more than the oracle on average; fewer labels than rows are taken, and none where all agree."""
    cell = measure(people, 500, 0.1, 0.9, 6, 0, share=0.5)
    assert cell.share == 0.5
    assert 0 < np.mean(cell.spent) < 400
    best = oracle(people, 0.1)
    assert 0 < best < 1
    assert cell.covered[1] <= cell.covered[0] + 0.02 <= best + 0.1
    everything = measure(people, 500, 0.1, 0.9, 2, 0, share=1.0)
    assert everything.covered[0] == pytest.approx(everything.covered[1], abs=0.05)


def test_without_data_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("Skipped") == 2
