"""What providers say about their limits, in all the ways they say it, and buckets that keep to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling.limits import Allowance, Limit, limit_headers, limits_in, seconds_until
from tests.labeling.scripted import FakeTime

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("8.64s", 8.64),
        ("2d", 172_800.0),
        ("12", 12.0),
        ("0.5", 0.5),
        (str(NOW + 30), 30.0),
        (str(int((NOW + 30) * 1000)), 30.0),
        ("2027-01-15T08:00:30Z", 30.0),
        ("2027-01-15T08:00:30+00:00", 30.0),
        ("2027-01-15T07:59:00Z", 0.0),
        ("-5", 0.0),
        ("soon", None),
        ("", None),
        ("1x", None),
        ("nan", None),
        ("inf", None),
        ("2027-01-15T08:00:30", None),
    ],
)
def test_a_reset_is_read_however_it_is_written(written: str, seconds: float | None) -> None:
    """As OpenAI, OpenRouter, Anthropic and the IETF's draft write it; a time without a zone says nothing."""
    assert seconds_until(written, NOW) == (None if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=20))
def test_no_reset_makes_it_stumble(written: str) -> None:
    assert (seconds_until(written, NOW) or 0.0) >= 0.0


def test_the_headers_of_each_provider_are_known() -> None:
    openai = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert limits_in(openai, NOW) == {
        "requests": Limit(60, 59, 1.0),
        "tokens": Limit(150_000, 149_984, 360.0),
    }
    openrouter = {
        "x-ratelimit-limit": "20",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": str(int(NOW * 1000) + 40_000),
    }
    assert limits_in(openrouter, NOW) == {"requests": Limit(20, 0, 40.0)}
    anthropic = {
        f"anthropic-ratelimit-{kind}-{part}": value
        for kind in ("requests", "tokens")
        for part, value in (("limit", "50"), ("remaining", "7"), ("reset", "2027-01-15T08:01:00Z"))
    }
    assert limits_in(anthropic, NOW) == {"requests": Limit(50, 7, 60.0), "tokens": Limit(50, 7, 60.0)}


@pytest.mark.parametrize(
    "change",
    [
        {"x-ratelimit-remaining-requests": "many"},
        {"x-ratelimit-remaining-requests": "70"},
        {"x-ratelimit-remaining-requests": "-1"},
        {"x-ratelimit-limit-requests": "0"},
        {"x-ratelimit-reset-requests": "whenever"},
        {"x-ratelimit-limit-requests": "nan"},
    ],
)
def test_what_makes_no_sense_is_no_limit(change: dict[str, str]) -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
    }
    assert limits_in(headers | change, NOW) == {}


def test_only_limits_are_taken_out_of_all_headers() -> None:
    raw = [(b"Content-Type", b"text/html"), (b"X-RateLimit-Limit", b"5"), (b"RateLimit-Reset", b"1")]
    assert limit_headers(raw) == {"x-ratelimit-limit": "5", "ratelimit-reset": "1"}


@given(
    st.floats(1, 6000),
    st.lists(st.tuples(st.floats(0, 20), st.floats(0.1, 500)), min_size=1, max_size=60),
)
def test_a_bucket_never_lets_more_through_than_its_rate(
    per_minute: float, wanted: list[tuple[float, float]]
) -> None:
    """Over any stretch: a second's worth, the rate, and the one request that was begun with."""
    time = FakeTime()
    bucket = Allowance(time.clock, per_minute)
    taken = 0.0
    for pause, amount in wanted:
        time.now += pause
        while wait := bucket.seconds_until_allowed(amount):
            time.now += wait
        bucket.take(amount)
        allowed = max(1.0, per_minute / 60) + time.now * per_minute / 60
        assert taken <= allowed + 1e-6
        taken += amount


def test_a_bucket_without_a_rate_lets_everything_through() -> None:
    bucket = Allowance(FakeTime().clock)
    for _ in range(100):
        assert bucket.seconds_until_allowed(1e9) == 0
        bucket.take(1e9)


def test_a_bucket_keeps_to_what_the_provider_says_of_its_own() -> None:
    """What is missing comes in evenly until the reset; a full one holds nobody up."""
    time = FakeTime()
    bucket = Allowance(time.clock)
    bucket.told(Limit(100, 0, 50.0))
    assert bucket.seconds_until_allowed(1) == pytest.approx(0.5)
    time.now += 5
    assert bucket.seconds_until_allowed(10) == 0
    bucket.take(10)
    assert bucket.seconds_until_allowed(10) == pytest.approx(5)
    # A request larger than the whole limit goes when the bucket is full.
    assert bucket.seconds_until_allowed(5000) == pytest.approx(50)
    bucket.told(Limit(100, 100, 0.0))
    assert bucket.seconds_until_allowed(5000) == 0


def test_nobody_waits_for_ever_because_of_a_header() -> None:
    bucket = Allowance(FakeTime().clock)
    bucket.told(Limit(1000, 0, 86_400.0))
    assert bucket.seconds_until_allowed(1000) == 120
