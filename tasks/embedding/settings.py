"""What decides a cached vector, and the name that it gives a cache. Loads no library and no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tasks.embedding.model_files import weights_hash

Backend = Literal["torch", "onnx", "onnx-int8"]


@dataclass(frozen=True)
class EncoderSettings:
    """What decides a cached vector; whoever asks for `auto` or for a known prefix has resolved it before.

    Attributes:
        model: a hub name, a local folder, `package:NAME`, `timm:NAME`, `openai:NAME`, `pixels:SIZE`, `hash:DIM`.
        prefix: stands before every text.
        normalize: whether vectors are brought to length 1.
        max_length: tokens of a text that are read; None: as many as the model reads.
        revision: of a hub name.
        sha256: of the weights file, checked when given.
        device: auto, cpu, cuda or mps; it decides no vector.
        storage_dtype: of cached vectors.
        precision: what the model computes in.
        dimensions: so many of a vector's numbers are kept, the first ones (Matryoshka); None: all.
        backend: what computes a text model.
        pretrained: of timm models; without, their weights are random, always the same.
        base_url: of an endpoint, up to and with /v1.
        api_key_env: the environment variable with an endpoint's key; it decides no vector.
    """

    model: str
    prefix: str = ""
    normalize: bool = True
    max_length: int | None = None
    revision: str | None = None
    sha256: str | None = None
    device: str = "auto"
    storage_dtype: Literal["float32", "float16"] = "float32"
    precision: Literal["float32", "bfloat16"] = "float32"
    dimensions: int | None = None
    backend: Backend = "torch"
    pretrained: bool = True
    base_url: str | None = None
    api_key_env: str | None = None


def fingerprint(settings: EncoderSettings) -> str:
    """A folder-safe name that changes whenever a vector would; no model is loaded.

    Raises:
        EncoderError: the package or folder is not there.
    """
    parts = [
        settings.model,
        settings.revision,
        weights_hash(settings.model),
        settings.prefix,
        settings.normalize,
        settings.max_length,
        settings.storage_dtype,
    ]
    # What older versions did not know is named only where it is not what they did: their caches stay valid.
    if later := dict(_later(settings)):
        parts.append(later)  # type: ignore[arg-type]
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()
    return f"{stem_of(settings)}-{digest}"


def stem_of(settings: EncoderSettings) -> str:
    """What the fingerprints of all encoders of this model's name begin with."""
    return "".join(ch if ch.isalnum() else "-" for ch in settings.model.split(":")[-1].split("/")[-1])[:40]


def _later(settings: EncoderSettings) -> Iterator[tuple[str, Any]]:
    usual = EncoderSettings(settings.model)
    for name in ("precision", "dimensions", "backend", "pretrained", "base_url"):
        if (value := getattr(settings, name)) != getattr(usual, name):
            yield name, value
