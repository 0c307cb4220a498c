import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.student.calibration import (
    TEMPERATURES,
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    reliability,
)


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Honest probabilities [n, 5] and labels drawn from them."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(5, 0.5), n).astype(np.float32)
    return P, (P.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 4)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_distortion_is_found_and_undone(temperature: float) -> None:
    P, y = drawn(20_000)
    bent = apply_temperature(P, temperature)
    found = fit_temperature(bent, y)
    assert found == pytest.approx(1 / temperature, rel=0.05)
    straight = apply_temperature(bent, found)
    assert log_loss(straight, y) <= log_loss(bent, y) + 1e-9
    assert expected_calibration_error(straight.max(axis=1), straight.argmax(axis=1) == y) < 0.015


@given(st.integers(0, 50), st.floats(0.05, 20))
def test_temperature_keeps_order_and_zeros(seed: int, temperature: float) -> None:
    P, _ = drawn(30, seed)
    P[:, 2] = 0
    P /= P.sum(axis=1, keepdims=True)
    bent = apply_temperature(P, temperature)
    assert np.all(bent[:, 2] == 0)
    np.testing.assert_allclose(bent.sum(axis=1), 1, atol=1e-5)
    picked = bent[np.arange(30), P.argmax(axis=1)]
    assert np.all(picked == bent.max(axis=1))


def test_extremes_stay_in_bounds() -> None:
    sure = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert fit_temperature(sure, np.array([1, 1])) == 1.0, "no row tells anything"
    right = np.array([[0.6, 0.4]] * 3, np.float32)
    assert fit_temperature(right, np.zeros(3, int)) == TEMPERATURES[0]
    assert fit_temperature(right, np.ones(3, int)) == TEMPERATURES[1]


def test_bins_hold_equal_mass_and_the_error_is_their_gap() -> None:
    confidence = np.linspace(0.5, 1, 150)
    bins = reliability(confidence, np.ones(150, bool))
    assert bins.items.tolist() == [10] * 15
    assert bins.error == pytest.approx((1 - confidence).mean())
    assert len(reliability(confidence[:3], np.ones(3, bool)).items) == 3
    assert reliability(confidence[:0], np.ones(0, bool)).error == 0
