"""One request to an OpenAI-compatible embedding endpoint, and what its reply means.

Knows HTTP and the provider's words; nothing of batches, retries or vectors' use. The key goes into the header and comes
out nowhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_DETAIL = 300
NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_credits")
NO_MODEL = ("model_not_found", "invalid_model")


class TransientError(Exception):
    """Worth another try, after so many seconds where the provider says so."""

    def __init__(self, detail: str, after_seconds: float | None = None) -> None:
        self.detail, self.after_seconds = detail, after_seconds
        super().__init__(detail)


class RefusedError(Exception):
    """The same texts would be refused again."""


class FatalError(Exception):
    """Every further request would be refused, too: the key, the money, the model."""


class Endpoint:
    """Where and how to ask.

    Args:
        base_url: up to and with /v1.
        api_key: sent, and shown to nobody.
        model: its name at the provider.
        dimensions: asked for; None leaves it to the model.
        timeout_seconds: of a whole request.
    """

    def __init__(
        self, base_url: str, api_key: str, model: str, dimensions: int | None, timeout_seconds: float
    ) -> None:
        self.url = f"{base_url.rstrip('/')}/embeddings"
        self._key, self._timeout_seconds = api_key, timeout_seconds
        self._asked: dict[str, Any] = {"model": model, "encoding_format": "float"}
        if dimensions is not None:
            self._asked["dimensions"] = dimensions

    async def ask(self, session: Any, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors float32 [n, d] of texts, in their order.

        Raises:
            TransientError: a 429, a 5xx, a time-out, a broken connection or a reply that is none.
            RefusedError: these texts are refused.
            FatalError: every further request would be refused.
        """
        import aiohttp

        body = json.dumps(self._asked | {"input": list(texts)}).encode()
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        try:
            async with session.post(self.url, data=body, headers=headers, timeout=timeout) as response:
                status, said, content = response.status, dict(response.headers), await response.read()
        except TimeoutError:
            raise TransientError(f"no reply within {self._timeout_seconds:g} seconds") from None
        except aiohttp.ClientError as error:
            raise TransientError(self._bounded(error)) from None
        if status == 200:
            return self._vectors(content, len(texts))
        raise self._error(status, said, content)

    def _vectors(self, content: bytes, wanted: int) -> NDArray[np.float32]:
        try:
            rows = sorted(json.loads(content)["data"], key=lambda row: row["index"])
            if [row["index"] for row in rows] != list(range(wanted)):
                raise ValueError(f"{len(rows)} vectors for {wanted} texts")
            vectors = np.array([row["embedding"] for row in rows], np.float32)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TransientError(f"the reply holds no embeddings ({self._bounded(error)})") from None
        if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():
            raise TransientError("the reply holds numbers that are none")
        return vectors

    def _error(self, status: int, headers: Mapping[str, str], content: bytes) -> Exception:
        fields = _error_in(content)
        detail = (
            f"{status}: {self._bounded(fields.get('message') or content[:1000].decode('utf-8', 'replace'))}"
        )
        code = str(fields.get("code") or fields.get("type") or "")
        if status == 402 or code in NO_MONEY:
            return FatalError(f"{detail}. Top up the account; what was encoded is kept")
        if status in (408, 409, 425, 429) or status >= 500:
            return TransientError(detail, retry_after(headers))
        if status in (401, 403):
            return FatalError(f"{detail}. Check the environment variable named by encoder.api_key_env")
        if code in NO_MODEL or status in (404, 405):
            return FatalError(f"{detail}. Check the model's name and encoder.base_url")
        return RefusedError(detail)

    def _bounded(self, said: object) -> str:
        text = " ".join(str(said).replace(self._key, "***").split())
        return text[:MOST_DETAIL] or "no reason given"


def _error_in(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(body, dict):
        return {}
    error = body.get("error", body)
    return error if isinstance(error, dict) else {"message": error}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a provider asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date."""
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    try:
        if "retry-after-ms" in lower:
            return max(0.0, float(lower["retry-after-ms"]) / 1000)
        if "retry-after" not in lower:
            return None
        written = lower["retry-after"]
        if written.replace(".", "", 1).isdigit():
            return float(written)
        return max(0.0, parsedate_to_datetime(written).timestamp() - time.time())
    except ValueError:
        return None
