import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.student.intervals import (
    clopper_pearson,
    clopper_pearson_upper,
    errors_allowed,
    share_of_outcomes_up_to,
    wilson,
)


@given(st.integers(1, 400), st.data(), st.floats(0.001, 0.4))
def test_the_bound_inverts_the_binomial_test(trials: int, data: st.DataObject, allowance: float) -> None:
    """At the bound, so few errors have exactly the allowed probability."""
    from scipy.stats import binom

    errors = data.draw(st.integers(0, trials))
    bound = float(clopper_pearson_upper(errors, trials, allowance))
    if errors == trials:
        assert bound == 1
    else:
        assert binom.cdf(errors, trials, bound) == pytest.approx(allowance, rel=1e-6)


def test_known_intervals() -> None:
    """Values from scipy.stats.binomtest(7, 50).proportion_ci; no trials prove nothing."""
    assert clopper_pearson(7, 50) == pytest.approx((0.0581917, 0.2673960), abs=1e-6)
    assert wilson(7, 50) == pytest.approx((0.0695070, 0.2618810), abs=1e-4)
    assert wilson(0, 0) == (0, 1)
    assert clopper_pearson_upper([0, 5], [0, 5], 0.05).tolist() == [1, 1]
    assert float(clopper_pearson_upper(0, 10, 0)) == 1


@given(st.integers(1, 3000), st.floats(0.005, 0.5), st.floats(0.005, 0.3))
def test_errors_allowed_are_the_most_that_prove_the_limit(
    trials: int, limit: float, allowance: float
) -> None:
    most = int(errors_allowed(trials, limit, allowance))
    assert -1 <= most < trials
    if most >= 0:
        assert clopper_pearson_upper(most, trials, allowance) <= limit * (1 + 1e-9)
    assert clopper_pearson_upper(most + 1, trials, allowance) >= limit * (1 - 1e-9)


def test_nothing_is_proved_by_no_trials_and_outcomes_add_up() -> None:
    assert errors_allowed([0, 58, 59], 0.05, 0.05).tolist() == [-1, -1, 0], "the rule of three"
    assert share_of_outcomes_up_to([-1, 0, 1, 2, 3], 2, 0.1).tolist() == pytest.approx([0, 0.81, 0.99, 1, 1])
