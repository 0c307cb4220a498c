"""What a policy keeps of its calibration sample: every item counted once in each shape, nothing of its order."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.student.calibration_profile import BINS, binned, calibration_profile
from tasks.student.package import Answers

UNIT = st.floats(0, 1, width=32)


def answers(confidences: list[float], familiarity: list[float] | None) -> Answers:
    deep = np.array(confidences, np.float32)
    return Answers(
        [f"l{round(3 * one)}" for one in confidences],
        np.zeros(len(deep), np.int32),
        np.column_stack([np.sqrt(deep), deep]),
        None if familiarity is None else np.array(familiarity, np.float32),
    )


@given(st.lists(UNIT, min_size=1, max_size=200), st.floats(0.1, 3.0))
def test_every_item_stands_in_one_bin_of_each_shape(confidences: list[float], near: float) -> None:
    """At most 32 bins, edges rising, and JSON gives the same back."""
    profile = calibration_profile(answers(confidences, [near] * len(confidences)))
    for name in ("scores", "familiarity"):
        shape = profile[name]
        assert sum(shape["counts"]) == profile["items"] == len(confidences)
        assert len(shape["counts"]) == len(shape["edges"]) + 1 <= BINS
        assert shape["edges"] == sorted(set(shape["edges"]))
    assert sum(profile["labels"].values()) == len(confidences)
    assert json.loads(json.dumps(profile)) == profile


def test_scores_are_what_thresholds_are_laid_on_in_bins_of_equal_size() -> None:
    """Of 320 different scores each bin has ten; an unfamiliar item stands lower than its confidence."""
    even = [(place + 0.5) / 320 for place in range(320)]
    assert calibration_profile(answers(even, None))["scores"]["counts"] == [10] * 32
    far = calibration_profile(answers(even, [0.2] * 320))["scores"]["edges"]
    near = calibration_profile(answers(even, None))["scores"]["edges"]
    assert all(low < high for low, high in zip(far, near, strict=True))


def test_a_student_without_prototypes_has_no_familiarity() -> None:
    """None instead of a made-up shape."""
    assert calibration_profile(answers([0.5], None))["familiarity"] is None


@pytest.mark.parametrize(("value", "place"), [(0.1, 0), (0.2, 0), (0.2000001, 0), (0.3, 1), (0.6, 2)])
def test_an_edge_belongs_to_the_bin_that_it_ends(value: float, place: int) -> None:
    """Also where another batch size changed the seventh digit."""
    assert binned(np.array([value]), np.array([0.2, 0.5])).tolist() == [place]
