from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure

from tasks.student.calibration import reliability
from tasks.student.figures import MOST_LABELS, calibration_figure, confusion_figure, escalation_figure
from tasks.student.thresholds import certify, fix_path


def drawn(figure: Figure) -> str:
    """All text of the figure, after it was rendered (a layout that cannot be drawn warns, and a warning fails)."""
    from matplotlib.text import Text

    figure.savefig(BytesIO(), format="png", dpi=50)
    return " ".join(t.get_text() for t in figure.findobj(Text))


@pytest.mark.parametrize("labels", [2, 12, MOST_LABELS])
def test_a_confusion_matrix_shows_every_label(labels: int) -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, labels, 2000)
    answered = np.where(rng.random(2000) < 0.9, true, rng.integers(0, labels, 2000))
    figure = confusion_figure(true, answered, [f"label {i} {'long ' * 8}" for i in range(labels)])
    assert f"label {labels - 1} " in drawn(figure)
    assert len(figure.axes[0].get_xticklabels()) == labels


@pytest.mark.parametrize("labels", [60, 280])
def test_of_many_labels_the_most_frequent_mistakes_are_drawn(labels: int) -> None:
    """A matrix of so many labels nobody can read: what was made most often stands on top, with its count."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, labels, 3000)
    answered = np.where(rng.random(3000) < 0.9, true, (true + 1) % labels)
    true[:40], answered[:40] = 5, 9
    figure = confusion_figure(true, answered, [f"label {i}" for i in range(labels)], "kind")
    text = drawn(figure)
    assert f"{labels} labels" in text
    assert f" 40 of {(true == 5).sum()}" in text
    assert figure.axes[0].get_yticklabels()[0].get_text() == "label 5 → label 9"
    assert len(figure.axes[0].get_yticklabels()) <= 25
    assert "no mistake" in drawn(confusion_figure(true, true, [f"label {i}" for i in range(labels)]))


def test_the_escalation_curve_marks_what_is_certified() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.beta(5, 1, (3000, 1)).astype(np.float32)
    wrong = rng.random(3000) > confidences[:, 0]
    path = fix_path(confidences)
    certificate = certify(path, confidences, wrong, 0.1)
    text = drawn(escalation_figure(certificate))
    assert f"{certificate.certified_coverage:.1%} answered" in text
    assert "target 10.0%" in text
    assert "nothing certified" in drawn(escalation_figure(certify(path, confidences[:9], wrong[:9], 0.01)))


@pytest.mark.parametrize("levels", [["kind"], ["area", "kind", "leaf"]])
def test_the_reliability_diagrams_state_their_errors(levels: list[str]) -> None:
    rng = np.random.default_rng(0)
    bins = {}
    for level in levels:
        confidence = rng.beta(5, 1, 900)
        bins[level] = reliability(confidence, rng.random(900) < confidence)
    text = drawn(calibration_figure(bins))
    for level in levels:
        assert f"{level}: calibration error {bins[level].error:.1%}" in text
