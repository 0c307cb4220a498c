"""What can be set about a simulated teacher: how slow, how strict, how unreliable.

It owns the ranges of the settings and nothing that acts on them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class TeacherSettings:
    """How the simulated teacher behaves; the defaults are a fast teacher that never fails.

    Attributes:
        latency_ms: a reply takes this long; jitter_ms is added to or taken from it, evenly.
        requests_per_minute: beyond it 429 with Retry-After; 0 is no limit.
        tokens_per_minute: the same for tokens, those of prompt and reply together. Either limit is told in the
            x-ratelimit headers of every reply.
        rate_limit_rate: share of requests answered 429 by chance; retry_after_seconds is what they ask for, and
            0 is to ask for nothing: no Retry-After at all.
        storm_seconds: so long nothing but 429, from storm_start_seconds after the first request on.
        error_rate: share of requests answered 500.
        garbage_rate: share of replies that are cut JSON, HTML with status 200, or empty. They are paid for.
        hang_rate: share of requests that are never answered.
        batch_seconds: a batch takes so long; a tenth of it each for validation and for its end.
        batch_error_rate: share of a batch's lines that fail with a 500.
        batch_expired_rate: share of a batch's lines that are never executed, so that the batch expires.
        batch_most_requests: most lines of a batch; batch_most_bytes is the most bytes of its file.
        batch_most_tokens: most tokens in open batches together, beyond which a batch fails at its validation; 0
            is no limit. A token is four bytes of the file.
        api_key: if set, requests without it get 401.
        budget_calls: after so many paid requests 402 insufficient_quota; None is no end.
        seed: all chance comes from it and the number of the request.
        model: the model that /v1/models names; replies echo the model that was asked for.

    Raises:
        ValueError: a share outside 0 to 1, shares that add up to more than 1, or a negative number.
    """

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    rate_limit_rate: float = 0.0
    retry_after_seconds: float = 1.0
    storm_start_seconds: float = 0.0
    storm_seconds: float = 0.0
    error_rate: float = 0.0
    garbage_rate: float = 0.0
    hang_rate: float = 0.0
    batch_seconds: float = 0.0
    batch_error_rate: float = 0.0
    batch_expired_rate: float = 0.0
    batch_most_requests: int = 50_000
    batch_most_bytes: int = 200_000_000
    batch_most_tokens: float = 0.0
    api_key: str | None = None
    budget_calls: int | None = None
    seed: int = 0
    model: str = "simulated-teacher"

    def __post_init__(self) -> None:
        online = ("rate_limit_rate", "error_rate", "garbage_rate", "hang_rate")
        for shares in (online, ("batch_error_rate", "batch_expired_rate")):
            for name in shares:
                if not 0 <= getattr(self, name) <= 1:
                    raise ValueError(f"{name} must be within 0 and 1, not {getattr(self, name)}")
            if sum(getattr(self, name) for name in shares) > 1 + 1e-9:
                raise ValueError(f"{', '.join(shares)} add up to more than 1")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "seed" and isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"{field.name} cannot be negative ({value})")
