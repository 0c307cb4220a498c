"""The audit coin.

It is a keyed hash of the request, so a retry never tosses again and nobody without the secret can tell
which requests are watched.
"""

from __future__ import annotations

import hashlib

_SCALE = float(1 << 64)


def coin(request_id: bytes, secret: str, rate: float) -> bool:
    """True for a share `rate` in [0, 1] of all requests, always the same for the same request."""
    digest = hashlib.blake2b(request_id, digest_size=8, key=secret.encode()[:64]).digest()
    return int.from_bytes(digest, "big") / _SCALE < rate
