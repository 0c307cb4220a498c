"""Encoders behind one method: contents in, one float32 vector each out.

`package:NAME` (an installed distribution that carries the weights), a local folder, a hub name, `timm:NAME` for
images, `openai:NAME` for an endpoint, `pixels:SIZE` for small images, `hash:DIM` for tests. Heavy libraries are
imported only when an encoder is loaded, and a fingerprint never needs one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from tasks.embedding.encoding import Encoded, Encoder, encode_in_shards
from tasks.embedding.prefixes import complaint
from tasks.embedding.sentence_encoder import SentenceEncoder
from tasks.embedding.settings import EncoderSettings, fingerprint, stem_of
from tasks.embedding.simple_encoders import HashEncoder, PixelEncoder
from tasks.errors import EncoderError

__all__ = [
    "Encoded",
    "Encoder",
    "EncoderSettings",
    "HashEncoder",
    "PixelEncoder",
    "SentenceEncoder",
    "check_reads",
    "complaints",
    "encode_in_shards",
    "fingerprint",
    "load_encoder",
    "stem_of",
]

READS_IMAGES = ("pixels", "timm")
READS_BOTH = ("hash",)


@lru_cache(maxsize=2)
def load_encoder(settings: EncoderSettings) -> Encoder:
    """Load the encoder; the same settings give the same one again, for a run routes shard after shard.

    Raises:
        EncoderError: unknown, out of reach, or its weights are not the ones the project names.
    """
    kind, _, argument = settings.model.partition(":")
    if kind == "hash" and argument.isdigit():
        return HashEncoder(int(argument))
    if kind == "pixels" and argument.isdigit():
        return PixelEncoder(int(argument), settings.normalize)
    if kind == "timm" and argument:
        from tasks.embedding.timm_encoder import TimmEncoder

        return TimmEncoder(settings)
    if kind == "openai" and argument:
        from tasks.embedding.endpoint_encoder import EndpointEncoder

        return EndpointEncoder(settings)
    if settings.backend != "torch":
        from tasks.embedding.onnx_encoder import OnnxEncoder

        return OnnxEncoder(settings)
    return SentenceEncoder(settings)


def check_reads(settings: EncoderSettings, modality: str) -> None:
    """Refuse an encoder that cannot read the project's kind of item, before it makes meaningless vectors.

    Raises:
        EncoderError: a text encoder for images, or an image encoder for texts.
    """
    kind = settings.model.partition(":")[0]
    if modality == "image" and kind not in READS_IMAGES + READS_BOTH:
        raise EncoderError(
            settings.model,
            "reads texts, the project's items are images",
            "Use timm:NAME, or pixels:32 for small, simple ones.",
        )
    if modality == "text" and kind in READS_IMAGES:
        raise EncoderError(
            settings.model, "reads images, the project's items are texts", "Name a text encoder."
        )


def complaints(settings: EncoderSettings) -> Iterator[str]:
    """What is allowed and probably not meant: a sentence each, with what to do."""
    if (prefix := complaint(settings.model, settings.prefix)) is not None:
        yield prefix
    if settings.backend == "onnx-int8":
        # notebooks/LOG.md: more than 0.3 points of accuracy on one of two data sets.
        yield (
            f"encoder {settings.model}: int8 costs accuracy, more than 0.3 points on short texts. Set encoder.backend: "
            "onnx, or torch, unless speed is worth that."
        )
