"""Whether the cache still holds what the encoder gives: checksums of everything, fresh encodings of a sample.

What is wrong is set aside, never deleted. Knows nothing of where contents come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.part_reading import read_blocks
from tasks.embedding.parts import Part
from tasks.errors import DamagedPartError

# Batches of other sizes, other processors and float16 on disk leave 0.9999 and more; another model leaves far less.
LEAST_COSINE = 0.999
MOST_STRETCH = 0.01

# Gives fresh vectors [m, d] of those of the keys whose contents are known, with their places among the keys.
Encode = Callable[[Sequence[bytes]], tuple[NDArray[np.int64], NDArray[np.floating]]]


@dataclass
class Verified:
    """What was looked at, and by part name what is wrong; the parts that are wrong are set aside."""

    parts: int = 0
    rows: int = 0
    compared: int = 0
    least_cosine: float | None = None
    wrong: dict[str, str] = field(default_factory=dict)


@dataclass
class _Sample:
    parts: list[str] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)


def verify(cache: EmbeddingCache, encode: Encode, sample: int, seed: int) -> Verified:
    """Afterwards every part that is cut, foreign, rotten or of another model's making is set aside.

    Args:
        cache: what to look at; a block of it is held at a time.
        encode: gives fresh vectors; asked once.
        sample: about how many vectors to encode anew, at least one a part while there are as many; 0: none.
        seed: of the choice.
    """
    before = len(cache.damaged)
    parts = cache.parts()
    found = Verified(wrong=dict(cache.damaged[before:]))
    found.parts = len(found.wrong)
    rng, drawn = np.random.default_rng(seed), _Sample()
    for part, share in zip(parts, _shares(parts, sample, rng), strict=True):
        try:
            _check(cache, part, share, rng, drawn)
        except FileNotFoundError:
            continue  # compacted meanwhile: its rows were checked before they were copied
        except DamagedPartError as damage:
            found.wrong[part.name] = damage.problem
            cache.set_aside(part.name, damage.problem)
        found.parts, found.rows = found.parts + 1, found.rows + part.rows
    if drawn.keys:
        _compare(cache, drawn, encode, found)
    return found


def _shares(parts: Sequence[Part], sample: int, rng: np.random.Generator) -> list[int]:
    """How many rows of each part to encode anew."""
    if not parts or not sample:
        return [0] * len(parts)
    each, more = divmod(sample, len(parts))
    lucky = set(rng.permutation(len(parts))[:more].tolist())
    return [min(part.rows, each + (place in lucky)) for place, part in enumerate(parts)]


def _check(cache: EmbeddingCache, part: Part, share: int, rng: np.random.Generator, drawn: _Sample) -> None:
    """Read a part whole; its share of the sample is kept.

    Raises:
        DamagedPartError: a checksum is wrong, or a vector is no number.
        FileNotFoundError: another process took it away.
    """
    chosen = np.sort(rng.choice(part.rows, share, replace=False)) if share else np.empty(0, np.int64)
    mine, first = _Sample(), 0
    for rows in read_blocks(cache.folder, part):
        if not np.isfinite(rows.vectors).all():
            raise DamagedPartError(f"{cache.folder}/{part.name}", "holds NaN or infinity")
        for row in chosen[(chosen >= first) & (chosen < first + len(rows.keys))] - first:
            mine.parts.append(part.name)
            mine.keys.append(rows.keys[row].tobytes())
            mine.vectors.append(rows.vectors[row].astype(np.float32))
        first += len(rows.keys)
    drawn.parts += mine.parts
    drawn.keys += mine.keys
    drawn.vectors += mine.vectors


def _compare(cache: EmbeddingCache, drawn: _Sample, encode: Encode, found: Verified) -> None:
    places, fresh = encode(drawn.keys)
    differing: dict[str, list[float]] = {}
    compared: dict[str, int] = {}
    for place, new in zip(places.tolist(), fresh, strict=True):
        name, old = drawn.parts[place], drawn.vectors[place]
        compared[name] = compared.get(name, 0) + 1
        if old.shape != new.shape:
            found.wrong.setdefault(
                name, f"holds vectors of {old.size} dimensions, the encoder gives {new.size}"
            )
            continue
        cosine, stretch = likeness(old, new)
        if cosine < LEAST_COSINE or stretch > MOST_STRETCH:
            differing.setdefault(name, []).append(cosine)
        else:
            found.least_cosine = min(cosine, 1.0 if found.least_cosine is None else found.least_cosine)
    found.compared = len(places)
    for name, cosines in differing.items():
        found.wrong.setdefault(
            name,
            f"{len(cosines)} of {compared[name]} vectors are not what the encoder gives now "
            f"(cosine {min(cosines):.3f})",
        )
    for name in compared.keys() & found.wrong.keys():
        cache.set_aside(name, found.wrong[name])


def likeness(old: NDArray[Any], new: NDArray[Any]) -> tuple[float, float]:
    """Cosine of two vectors, and by which share their lengths differ; two zeros are alike."""
    a, b = old.astype(np.float64), new.astype(np.float64)
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if min(lengths) == 0.0:
        return (1.0, 0.0) if max(lengths) == 0.0 else (0.0, 1.0)
    return float(a @ b) / (lengths[0] * lengths[1]), abs(lengths[0] / lengths[1] - 1.0)
