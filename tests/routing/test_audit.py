"""The audit coin: fair, stubborn, and nobody's without the secret."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tasks.routing.audit import coin

REQUESTS = [hashlib.blake2b(str(n).encode(), digest_size=16).digest() for n in range(20_000)]


@pytest.mark.parametrize("rate", [0.0, 0.002, 0.02, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("secret", ["one", "another"])
def test_the_rate_is_kept_within_binomial_noise(rate: float, secret: str) -> None:
    """Of 20,000 requests as many are watched as a fair coin of that rate would watch, almost surely."""
    watched = sum(coin(request, secret, rate) for request in REQUESTS)
    low, high = binom.interval(0.9999, len(REQUESTS), rate) if 0 < rate < 1 else (rate * len(REQUESTS),) * 2
    assert low <= watched <= high


@given(request=st.binary(min_size=1, max_size=32), rate=st.floats(0, 1), higher=st.floats(0, 1))
def test_a_request_is_never_tossed_again(request: bytes, rate: float, higher: float) -> None:
    """The same request falls the same way, and one watched at a rate is watched at every higher one."""
    assert coin(request, "s", rate) == coin(request, "s", rate)
    low, high = sorted((rate, higher))
    assert coin(request, "s", low) <= coin(request, "s", high)


def test_two_secrets_watch_independently() -> None:
    """Knowing which requests one secret watches says nothing about another's: the overlap is the product."""
    both = sum(coin(request, "one", 0.3) and coin(request, "two", 0.3) for request in REQUESTS)
    low, high = binom.interval(0.9999, len(REQUESTS), 0.09)
    assert low <= both <= high


def test_a_long_secret_counts_and_an_empty_one_is_allowed() -> None:
    """Secrets beyond the hash's key size do not fail."""
    assert coin(REQUESTS[0], "x" * 200, 1.0)
    assert coin(REQUESTS[0], "", 1.0)
