"""Which encoders' caches lie under a project, what they weigh, and taking away those that nobody uses.

Only files the cache itself writes are ever deleted. Who uses which fingerprint is told, not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tasks.embedding.folders import BESIDE, Folder, folder_at
from tasks.embedding.parts import DAMAGED_SUFFIX, SUFFIX

FINGERPRINT = re.compile(r"^.*-[0-9a-f]{12}$")
_OURS = re.compile(rf"^part-.*({re.escape(SUFFIX)}|{re.escape(DAMAGED_SUFFIX)})$")


class Survey(NamedTuple):
    """Caches as (fingerprint, bytes), the largest first; bytes of damaged parts within those in use."""

    unused: list[tuple[str, int]]
    used: list[tuple[str, int]]
    leftovers: int


def survey(embeddings: Path | str, in_use: Callable[[str], bool]) -> Survey:
    """What lies there; nothing is changed."""
    unused: list[tuple[str, int]] = []
    used: list[tuple[str, int]] = []
    left = 0
    for folder in _caches(embeddings):
        sizes = {name: stamp.size for name, stamp in folder.stamps().items() if _is_ours(name)}
        (used if in_use(folder.name) else unused).append((folder.name, sum(sizes.values())))
        if in_use(folder.name):
            left += sum(size for name, size in sizes.items() if _is_leftover(name))
    return Survey(_largest_first(unused), _largest_first(used), left)


def prune(embeddings: Path | str, in_use: Callable[[str], bool]) -> None:
    """Afterwards the caches that are not in use are gone, and from the others their damaged parts.

    A kill in between leaves caches with fewer parts, which are caches still.
    """
    for folder in _caches(embeddings):
        everything = not in_use(folder.name)
        for name in folder.stamps():
            if _is_ours(name) and (everything or _is_leftover(name)):
                folder.delete(name)
        if everything:
            folder.remove()


def _caches(embeddings: Path | str) -> list[Folder]:
    return [folder for folder in folder_at(embeddings).folders() if FINGERPRINT.match(folder.name)]


def _is_ours(name: str) -> bool:
    return bool(_OURS.match(name) or BESIDE.match(name))


def _is_leftover(name: str) -> bool:
    return name.endswith(
        DAMAGED_SUFFIX
    )  # an unfinished write may be somebody's; compaction clears the old ones


def _largest_first(caches: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(caches, key=lambda cache: (-cache[1], cache[0]))
