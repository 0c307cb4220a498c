"""How much goes through a model at once: doubled until throughput stops rising or memory is short.

Batches are of equal length wherever enough contents have it, so that nothing is padded. Knows nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.encoding import Told

LOOKS = 3  # batches of a size before it is judged, by the fastest: others may be at work
RISING = 1.05
SPARE = 0.25  # the share of memory below which a batch does not grow any more
ALIKE = 1.15  # lengths that few contents have share a batch within this ratio


class BatchSize:
    """How many units, tokens say, a batch holds; it learns from what it is told.

    Args:
        first: units to begin with.
        most: never more.
        memory_left: the share of memory that is free, in [0, 1].
    """

    def __init__(self, first: int, most: int, memory_left: Callable[[], float] = lambda: 1.0) -> None:
        self.units, self._most, self._memory_left = min(first, most), most, memory_left
        self._best = (0.0, self.units)
        self._looks: list[float] = []
        self.settled = False

    def told(self, units: int, seconds: float) -> None:
        """A batch of so many units took so long; batches that were not nearly full say nothing."""
        if self.settled or 2 * units < self.units:
            return
        self._looks.append(units / max(seconds, 1e-9))
        if len(self._looks) < LOOKS:
            return
        rate = max(self._looks)
        self._looks = []
        if rate < self._best[0] * RISING:
            self.units, self.settled = self._best[1], True
            return
        self._best = (rate, self.units)
        if 2 * self.units > self._most or self._memory_left() < SPARE:
            self.settled = True
        else:
            self.units *= 2

    def short_of_memory(self) -> None:
        """A batch did not fit: half as many from now on, and never so many again."""
        self.units = self._most = max(1, self.units // 2)
        self._best, self._looks, self.settled = (0.0, self.units), [], True


class TooLargeError(Exception):
    """One content alone does not fit into memory: its `row`."""

    def __init__(self, row: int) -> None:
        self.row = row
        super().__init__(row)


def in_batches(
    lengths: NDArray[np.integer],
    run: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    out: NDArray[np.float32],
    size: BatchSize,
    few: int,
    told: Told | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Fill `out` [n, d] with what `run` gives for rows of like lengths, the longest first.

    Args:
        lengths: units of each content, at least 1.
        run: gives float32 [m, d] of the m rows it is given.
        out: the matrix to fill.
        size: of a batch; it is told of each, and halved when memory is short.
        few: where fewer contents have a length, they share a batch with slightly shorter ones.
        told: hears how many rows are done.
        clock: seconds.

    Raises:
        TooLargeError: a content alone does not fit into memory.
    """
    order = np.argsort(-lengths, kind="stable")
    falling = -lengths[order]
    done = 0
    while done < len(order):
        rows = order[done : done + _alike(falling[done:], size.units, few)]
        units = int(lengths[rows[0]]) * len(rows)
        started = clock()
        try:
            out[rows] = run(rows)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                raise TooLargeError(int(rows[0])) from error
            # What is in units fits no more; what was in the batch may have been far less.
            size.units = min(size.units, units)
            size.short_of_memory()
            continue
        size.told(units, clock() - started)
        done += len(rows)
        if told is not None:
            told(done)


def _alike(falling: NDArray[np.integer], units: int, few: int) -> int:
    """How many of the contents, whose lengths are given negative and the longest first, go into a batch."""
    longest = -int(falling[0])
    most = max(1, units // longest)
    same = int(np.searchsorted(falling, -longest, side="right"))
    if same < min(few, most):
        same = int(np.searchsorted(falling, -longest / ALIKE, side="right"))
        most = min(most, few)
    return min(same, most)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was too short, in the words of torch's devices and of ONNX Runtime."""
    said = str(error).lower()
    words = ("out of memory", "not enough memory", "can't allocate memory", "failed to allocate memory")
    return isinstance(error, MemoryError) or any(word in said for word in words)


def share_of_memory_left(device: str) -> Callable[[], float]:
    """What tells the share of a device's memory that is free."""

    def left() -> float:
        if device.startswith("cuda"):
            import torch

            free, total = torch.cuda.mem_get_info()
            return float(free / total)
        import psutil

        memory = psutil.virtual_memory()
        return float(memory.available / memory.total)

    return left
