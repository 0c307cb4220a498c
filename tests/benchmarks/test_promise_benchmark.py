"""The benchmark of the promise runs, and tells a certificate that breaks the promise from one that keeps it."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.student.thresholds import ThresholdPath, fix_path
from tests.benchmarks.promise import Population, main, may_miss, measure, single_stage


def test_it_runs_and_prints_both_sections(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--draws", "3", "--train", "300", "--cross-fit", "300", "--sizes", "300", "--candidates", "linear"]
    assert main(["--quick", *few]) == 0
    said = capsys.readouterr().out
    assert "2,700 are the population" in said
    assert "3 training sets of 300 rows, linear; 2,700 fresh rows" in said
    assert said.count("| 5% | 300 | 0.9") == 2


@pytest.mark.parametrize(("how", "said"), [([], "apart"), (["--in-sample"], "in sample")])
def test_wrong_labels_are_cleaned_and_disagreement_is_counted(
    capsys: pytest.CaptureFixture[str], how: list[str], said: str
) -> None:
    few = ["--draws", "1", "--cross-fit", "200", "--candidates", "linear", "--targets", "0.2"]
    assert main(["cross_fitted", "--quick", "--noise", "0.15", *few, *how]) == 0
    assert f"15% wrong, cleaned, judged {said}" in capsys.readouterr().out


def plug_in(
    path: ThresholdPath, scores: np.ndarray, wrong: np.ndarray, target: float, *_: object
) -> tuple[float, ...]:
    """The loosest point whose error in the sample keeps the target: what a certificate is there to better."""
    kept = [row for row in path.thresholds if wrong[scores[:, -1] >= row[-1]].mean() <= target]
    return tuple(kept[-1].tolist())


def test_a_promise_that_is_not_kept_is_seen() -> None:
    """The plug-in breaks it in more draws than may be, the certificate does not and covers no more than the oracle."""
    rng = np.random.default_rng(0)
    scores = rng.beta(4, 0.6, (20_000, 1))
    people = Population(fix_path(rng.beta(4, 0.6, (3000, 1))), scores, rng.random(20_000) > scores[:, 0])
    sound = measure(people, 500, 0.05, 0.9, 60)
    naive = measure(people, 500, 0.05, 0.9, 60, plug_in)
    assert sound.missed <= may_miss(60, 0.9) < naive.missed
    assert 0.3 < sound.coverage <= people.oracle(0.05) < 1
    assert single_stage(people.path, scores[:5], np.ones(5, bool), 0.05, 0.9, rng) is None


def test_what_chance_allows() -> None:
    assert (may_miss(200, 0.9), may_miss(200, 0.95)) == (29, 16)
