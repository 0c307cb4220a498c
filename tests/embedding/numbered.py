"""Keys and vectors by number: whoever reads a vector can tell whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tasks.embedding.cache import EmbeddingCache

DIMENSION = 3


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def keys(numbers: Sequence[int]) -> list[bytes]:
    return [key(number) for number in numbers]


def keys_frame(numbers: Sequence[int]) -> pl.DataFrame:
    return pl.DataFrame({"key": keys(numbers)}, schema={"key": pl.Binary})


def vectors(numbers: Sequence[int]) -> np.ndarray:
    """The one vector that belongs to each key; float16 holds it exactly."""
    return np.array([[number, number / 8, -number] for number in numbers], np.float32).reshape(-1, DIMENSION)


def append(cache: EmbeddingCache, numbers: Sequence[int]) -> None:
    cache.append(keys(numbers), vectors(numbers))


def missing(cache: EmbeddingCache, numbers: Sequence[int]) -> list[int]:
    return [int.from_bytes(k, "big") for k in cache.missing(keys_frame(numbers))["key"]]


def cached(cache: EmbeddingCache) -> set[int]:
    return {int.from_bytes(k, "big") for k in cache.keys()["key"]}


def part_files(cache: EmbeddingCache) -> list[Path]:
    """The parts of a cache on this disk, in the order of writing."""
    return sorted(Path(str(cache.folder)).glob("part-*.parquet"))


def files(cache: EmbeddingCache, pattern: str = "*") -> list[str]:
    """All names in the folder of a cache on this disk that fit, hidden ones included."""
    return sorted(path.name for path in Path(str(cache.folder)).glob(pattern))
