import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.student.intervals import clopper_pearson, clopper_pearson_upper, trials_needed, wilson


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


def test_trials_needed_are_enough_and_hopeless_rates_get_none() -> None:
    assert trials_needed(0.0, 0.05, 0.05) == 59, "the rule of three"
    needed = trials_needed(0.02, 0.05, 0.0125)
    assert needed is not None
    assert clopper_pearson_upper(np.ceil(0.02 * needed), needed, 0.0125) <= 0.05
    assert trials_needed(0.05, 0.05, 0.05) is None
    assert trials_needed(0.0499, 0.05, 0.05, at_most=1000) is None
