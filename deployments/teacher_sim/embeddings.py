"""What the simulated teacher says to a request for embeddings: hashed trigrams, so that like texts are near each other.

It owns the form of request and reply. Keys, limits and faults are the application's.
"""

from __future__ import annotations

from typing import Any

from deployments.teacher_sim.replies import RefusedRequestError
from tasks.embedding.simple_encoders import HashEncoder

DIMENSION = 256
MOST_TEXTS = 2048
MOST_TOKENS = 8192  # of one text
CHARACTERS_A_TOKEN = 4


def embeddings_of(request: dict[str, Any]) -> dict[str, Any]:
    """The body of the reply.

    Raises:
        RefusedRequestError: the request is none, or a text is too long; then none of its texts is encoded.
    """
    texts = request.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise RefusedRequestError(400, "invalid_request_error", "'input' must be a text or some, none empty")
    if len(texts) > MOST_TEXTS:
        raise RefusedRequestError(400, "invalid_request_error", f"at most {MOST_TEXTS} texts a request")
    dimensions = request.get("dimensions", DIMENSION)
    if not isinstance(dimensions, int) or not 1 <= dimensions <= DIMENSION:
        raise RefusedRequestError(400, "invalid_request_error", f"'dimensions' must be 1 to {DIMENSION}")
    tokens = [-(-len(text) // CHARACTERS_A_TOKEN) for text in texts]
    if max(tokens) > MOST_TOKENS:
        message = f"This model's maximum context length is {MOST_TOKENS} tokens, a text has {max(tokens)}."
        raise RefusedRequestError(400, "invalid_request_error", message)
    data = [
        {"object": "embedding", "index": place, "embedding": vector}
        for place, vector in enumerate(HashEncoder(dimensions).encode(texts).tolist())
    ]
    usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    return {"object": "list", "data": data, "model": request.get("model"), "usage": usage}
