"""The levels of a taxonomy as index arrays: from one distribution over the leaves to an answer at every level.

Knows indices only; which name stands behind a node is the taxonomy's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError

ROWS_AT_ONCE = 32_768
"""In double precision no more than these are held."""


@dataclass(frozen=True, eq=False)
class Levels:
    """Which node of each level every leaf lies under.

    A leaf that ends early keeps a node of its own at the deeper levels, so the last level has exactly one node a
    leaf and each node has exactly one parent.

    Args:
        names: one a level, from the root down.
        maps: one array a level, int32 [n_leaves], the leaf's node index at that level.
        sizes: the number of nodes of each level.

    Raises:
        TrainingError: a map of another length, a node without a leaf, a node with two parents, or a last level
            that does not tell the leaves apart.
    """

    names: tuple[str, ...]
    maps: tuple[NDArray[np.int32], ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.names or not len(self.names) == len(self.maps) == len(self.sizes):
            raise _malformed(f"{len(self.names)} names, {len(self.maps)} maps, {len(self.sizes)} sizes")
        for depth, (name, nodes, size) in enumerate(zip(self.names, self.maps, self.sizes, strict=True)):
            if nodes.shape != (self.n_leaves,):
                raise _malformed(f"level {name} maps {nodes.shape} leaves, the first level {self.n_leaves}")
            if not np.array_equal(np.unique(nodes), np.arange(size)):
                raise _malformed(f"level {name} should use every node from 0 to {size - 1}")
            if depth and np.any(self.parents[depth][nodes] != self.maps[depth - 1]):
                raise _malformed(
                    f"a node of level {name} lies under two nodes of level {self.names[depth - 1]}"
                )
        if self.sizes[-1] != self.n_leaves:
            raise _malformed(f"the last level has {self.sizes[-1]} nodes for {self.n_leaves} leaves")

    @property
    def n_leaves(self) -> int:
        """The number of leaves, and of nodes at the last level."""
        return len(self.maps[0])

    @cached_property
    def parents(self) -> tuple[NDArray[np.int32], ...]:
        """For each level, int32 [nodes]: the parent's node index one level up (all 0 at the first level)."""
        found = [np.zeros(self.sizes[0], np.int32)]
        for above, nodes, size in zip(self.maps[:-1], self.maps[1:], self.sizes[1:], strict=True):
            parent = np.zeros(size, np.int32)
            parent[nodes] = above
            found.append(parent)
        return tuple(found)

    @classmethod
    def flat(cls, n_leaves: int, name: str = "label") -> Levels:
        """One level whose nodes are the leaves themselves."""
        return cls((name,), (np.arange(n_leaves, dtype=np.int32),), (n_leaves,))


@dataclass(frozen=True, eq=False)
class Decoded:
    """One answer an item, stated at every level.

    Attributes:
        nodes: int32 [n, levels], the chosen node of each level.
        confidences: float32 [n, levels], its marginal probability, in [0, 1]; never rises with depth.
        leaf: int32 [n], the chosen leaf.
    """

    nodes: NDArray[np.int32]
    confidences: NDArray[np.float32]
    leaf: NDArray[np.int32]


def marginals(P: NDArray[np.floating], levels: Levels) -> list[NDArray[np.float32]]:
    """The probability of every node of every level: the sum over the leaves below it.

    Args:
        P: [n, n_leaves], rows summing to 1.
        levels: the tree.

    Returns:
        One float32 array [n, nodes] a level, in [0, 1].

    Raises:
        TrainingError: P has another number of columns than the tree has leaves.
    """
    if P.ndim != 2 or P.shape[1] != levels.n_leaves:
        raise _malformed(f"probabilities of shape {P.shape} for {levels.n_leaves} leaves")
    found = []
    for nodes, size in zip(levels.maps, levels.sizes, strict=True):
        order = np.argsort(nodes, kind="stable")
        starts = np.searchsorted(nodes[order], np.arange(size))
        level = np.empty((len(P), size), np.float32)
        for first in range(0, len(P), ROWS_AT_ONCE):
            here = slice(first, first + ROWS_AT_ONCE)
            # float64 sums: a level of one node must say 1, not 1 plus the rounding of a thousand leaves
            summed = np.add.reduceat(P[here, order], starts, axis=1, dtype=np.float64)
            level[here] = np.clip(summed, 0.0, 1.0)
        found.append(level)
    return found


def decode(P: NDArray[np.floating], levels: Levels) -> Decoded:
    """The best node at the first level, then the best below it, and so on down.

    Greedy from the top, so that the surest level is decided first and the levels of one answer never contradict
    each other. On a tie the node with the lower index wins.

    Args:
        P: [n, n_leaves], rows summing to 1.
        levels: the tree.

    Returns:
        The answers, in the order of the rows.

    Raises:
        TrainingError: P has another number of columns than the tree has leaves.
    """
    nodes = np.zeros((len(P), len(levels.names)), np.int32)
    confidences = np.ones((len(P), len(levels.names)), np.float32)
    for first in range(0, max(1, len(P)), ROWS_AT_ONCE):
        here = slice(first, first + ROWS_AT_ONCE)
        for depth, marginal in enumerate(marginals(P[here], levels)):
            if depth:
                allowed = levels.parents[depth][None, :] == nodes[here, depth - 1, None]
                nodes[here, depth] = np.where(allowed, marginal, -1.0).argmax(axis=1)
            else:
                nodes[here, depth] = marginal.argmax(axis=1)
            confidences[here, depth] = marginal[np.arange(len(marginal)), nodes[here, depth]]
    leaf_of = np.zeros(levels.n_leaves, np.int32)
    leaf_of[levels.maps[-1]] = np.arange(levels.n_leaves, dtype=np.int32)
    return Decoded(nodes, np.minimum.accumulate(confidences, axis=1), leaf_of[nodes[:, -1]])


def _malformed(problem: str) -> TrainingError:
    return TrainingError(problem, "build the levels from the taxonomy the student is trained on")
