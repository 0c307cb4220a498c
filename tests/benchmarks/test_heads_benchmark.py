"""The benchmarks of heads, of training at scale and of images run, and what they count adds up."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import grocery_images, heads, training_scale


@pytest.mark.slow
def test_heads_are_compared_in_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert heads.main(["--quick", "--seeds", "1"]) == 0
    said = capsys.readouterr().out
    for name in ("0% noise", "15% noise", "linear against its best", "mlp against its best", "ECE after"):
        assert name in said
    assert "| contradictions, linear, joint | 0 |" in said


def test_a_difference_is_paired_over_the_seeds() -> None:
    ones, zeros = [np.ones(200), np.ones(200)], [np.zeros(200), np.zeros(200)]
    assert heads.difference(ones, zeros) == "+100.00% [+100.00%, +100.00%]"
    assert heads.mean([np.ones(10), np.zeros(10)]) == 0.5


def test_teachers_err_as_often_as_they_should() -> None:
    task = heads.blobs(1, 0.15)
    assert 0.05 < (task.teacher != task.truth).mean() < 0.25
    assert task.levels.names == ("l1", "label")


@pytest.mark.slow
def test_training_is_measured_step_by_step(tmp_path: Path) -> None:
    """Each step in its process's order, from the cache to a head that is better than chance."""
    training_scale.fill_cache(tmp_path, 900, 12, 4)
    run = training_scale.train(tmp_path, "linear", 900, 12, 4, 0)
    assert list(run["steps"]) == ["before", "read from the cache", "tune", "fit"]
    assert run["test"] > 0.3
    peaks = [step["peak"] for step in run["steps"].values()]
    assert peaks == sorted(peaks)
    beside = training_scale.beside(tmp_path, 400, 12, 4, 3.0)
    assert abs(beside["ours"]["test"] - beside["scikit-learn"]["test"]) < 0.02


@pytest.mark.slow
def test_an_epoch_stands_beside_its_products(tmp_path: Path) -> None:
    options = Namespace(rows=1500)
    [one, two] = training_scale.mlp_epoch(tmp_path, options).figures
    assert one.name.endswith("threads 1")
    assert two.name.endswith("threads 2")


@pytest.mark.slow
def test_images_are_trained_and_exported(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert grocery_images.main(["--quick"]) == 0
    said = capsys.readouterr().out
    assert "the same to the last bit: True" in said
    assert "the same answer to 100.0%" in said


def test_without_data_nothing_is_claimed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert grocery_images.main(["--data", str(tmp_path)]) == 0
    assert "skipped" in capsys.readouterr().out
