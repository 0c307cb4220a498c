"""How many torch threads a training takes: one while it is small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

ONE_THREAD_BELOW = 100_000


@contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """One torch thread while few rows are trained on: spinning threads cost ten times on a busy machine.

    Measured with the small MLP and with 32-pixel images (notebooks/LOG.md). The number is put back afterwards.
    """
    import torch

    before = torch.get_num_threads()
    if rows < ONE_THREAD_BELOW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
