from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure

from tasks.student.calibration import reliability
from tasks.student.figures import MOST_LABELS, confusion_figure, escalation_figure, reliability_figure
from tasks.student.thresholds import certify, fix_path


def drawn(figure: Figure) -> str:
    """All text of the figure, after it was rendered (a layout that cannot be drawn warns, and a warning fails)."""
    from matplotlib.text import Text

    figure.savefig(BytesIO(), format="png", dpi=50)
    return " ".join(t.get_text() for t in figure.findobj(Text))


@pytest.mark.parametrize("labels", [2, 12, 60])
def test_a_confusion_matrix_shows_at_most_what_can_be_read(labels: int) -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, labels, 2000)
    answered = np.where(rng.random(2000) < 0.9, true, rng.integers(0, labels, 2000))
    answered[true == labels - 1] = 0
    figure = confusion_figure(true, answered, [f"label {i} {'long ' * 8}" for i in range(labels)])
    text = drawn(figure)
    assert f"label {labels - 1} " in text, "the most confused label is always there"
    assert len(figure.axes[0].get_xticklabels()) == min(labels, MOST_LABELS)
    assert (f"of {labels} labels" in text) == (labels > MOST_LABELS)


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


def test_the_reliability_diagram_states_the_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.beta(5, 1, 900)
    bins = reliability(confidence, rng.random(900) < confidence)
    assert f"calibration error {bins.error:.1%}" in drawn(reliability_figure(bins))
