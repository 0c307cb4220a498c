"""What every encoder does: contents in, one float32 vector each out, and what cannot be encoded named.

Knows no encoder and no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.errors import EncoderError, InputError

Told = Callable[[int], None]


@dataclass(frozen=True)
class Encoded:
    """Vectors float32 [n, dimension] of n contents; a row is zero where `refused` says why there is none."""

    vectors: NDArray[np.float32]
    refused: Mapping[int, str] = field(default_factory=dict)


class Encoder(Protocol):
    """Anything that turns contents into vectors of one dimension."""

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        ...

    def encode(self, contents: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors float32 [n, dimension], in the order given.

        Raises:
            InputError: a content cannot be encoded; its place (1-based) is the row.
        """
        ...

    def encode_each(self, contents: Sequence[Any], told: Told | None = None) -> Encoded:
        """The same, but what cannot be encoded is named and the rest goes on; `told` hears how many are done."""
        ...


def all_or_none(encoded: Encoded) -> NDArray[np.float32]:
    """The vectors.

    Raises:
        InputError: not all contents have one.
    """
    for place, why in sorted(encoded.refused.items()):
        raise InputError(f"content {place + 1}", why, "Replace it or leave it out.", place + 1)
    return encoded.vectors


def lengthened(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each vector at length 1; one of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12).astype(np.float32)


def shortened(vectors: NDArray[np.float32], dimensions: int | None, normalize: bool) -> NDArray[np.float32]:
    """The first `dimensions` numbers of each vector (Kusupati et al. 2022), at length 1 again where they are to be."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = np.ascontiguousarray(vectors[:, :dimensions])
    return lengthened(cut) if normalize else cut


def dimension_kept(model: str, dimension: int, dimensions: int | None) -> int:
    """How many numbers a vector of a model with so many has.

    Raises:
        EncoderError: more are wanted than there are.
    """
    if dimensions is not None and dimensions > dimension:
        raise EncoderError(
            model,
            f"gives vectors of {dimension} dimensions, encoder.dimensions asks for {dimensions}",
            f"Set it to at most {dimension}, or leave it out.",
        )
    return dimensions or dimension


def encode_in_shards(
    encoder: Encoder,
    contents: Sequence[Any],
    shard_rows: int,
    write: Callable[[int, NDArray[np.float32]], None],
    progress: Callable[[int, int], None] | None = None,
    refuse: Callable[[int, str], None] | None = None,
) -> None:
    """Encode shard by shard and hand each to `write(first_row, vectors)`, so that a kill loses one shard.

    Args:
        encoder: what encodes.
        contents: of any number.
        shard_rows: of a shard.
        write: given every row of a shard; those that were refused are zeros.
        progress: told (done, of how many), also within a shard.
        refuse: told (row, why) before the shard is written; without it a bad content ends the work.

    Raises:
        InputError: a content cannot be encoded, and there is no `refuse`.
    """

    def told(done: int) -> None:
        if progress is not None:
            progress(first + done, len(contents))

    for first in range(0, len(contents), shard_rows):
        shard = contents[first : first + shard_rows]
        encoded = encoder.encode_each(shard, told)
        if refuse is None:
            all_or_none(encoded)
        else:
            for place, why in sorted(encoded.refused.items()):
                refuse(first + place, why)
        write(first, encoded.vectors)
        told(len(shard))
