"""Encoders that need no model: hashed trigrams for tests, and the pixels themselves for small, simple images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.encoding import Encoded, Told, all_or_none


class HashEncoder:
    """Hashed character trigrams, L2-normalised: similar texts are near each other, nothing is learned."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def encode(self, contents: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors float32 [n, dimension] of texts or bytes."""
        out = np.zeros((len(contents), self.dimension), dtype=np.float32)
        for row, content in enumerate(contents):
            if isinstance(content, bytes):
                data = content
            else:
                data = f"  {str(content).casefold()}  ".encode("utf-8", "surrogatepass")
            for start in range(len(data) - 2):
                digest = int.from_bytes(
                    hashlib.blake2b(data[start : start + 3], digest_size=4).digest(), "little"
                )
                out[row, digest % self.dimension] += 1.0 if digest & 0x80000000 else -1.0
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)

    def encode_each(self, contents: Sequence[Any], told: Told | None = None) -> Encoded:
        """See `Encoder.encode_each`; nothing is refused."""
        return Encoded(self.encode(contents))


class PixelEncoder:
    """The image itself in grey, scaled to SIZE x SIZE: a floor for image encoders, and enough for digits."""

    def __init__(self, size: int, normalize: bool) -> None:
        self._size, self._normalize = size, normalize
        self.dimension = size * size

    def encode(self, contents: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors float32 [n, size * size] of encoded images, mean removed.

        Raises:
            InputError: an image cannot be read.
        """
        return all_or_none(self.encode_each(contents))

    def encode_each(self, contents: Sequence[Any], told: Told | None = None) -> Encoded:
        """See `Encoder.encode_each`."""
        from PIL import Image

        from tasks.embedding.image_decoding import UnreadableImageError, small_image

        out = np.zeros((len(contents), self.dimension), dtype=np.float32)
        refused: dict[int, str] = {}
        for row, content in enumerate(contents):
            try:
                image = small_image(content, self._size, as_seen=False)
            except UnreadableImageError as error:
                refused[row] = str(error)
                continue
            grey = image.convert("L").resize((self._size, self._size), Image.Resampling.BILINEAR)
            out[row] = np.asarray(grey, dtype=np.float32).ravel() / 255.0
        out -= out.mean(axis=1, keepdims=True)
        if self._normalize:
            out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
        return Encoded(out, refused)
