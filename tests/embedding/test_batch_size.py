"""Batches: every content once, as few padded as possible, as large as pays, smaller where memory is short."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.embedding.batch_size import ALIKE, BatchSize, TooLargeError, in_batches, is_out_of_memory

FEW = 4


class Machine:
    """Takes `seconds(units)` for a batch on a clock of its own, and has memory for `room` units."""

    def __init__(self, lengths: list[int], seconds: Callable[[int], float], room: int | None = None) -> None:
        self.lengths, self._seconds, self._room = np.array(lengths, np.int64), seconds, room
        self.now = 0.0
        self.batches: list[list[int]] = []

    def run(self, rows: np.ndarray) -> np.ndarray:
        import torch

        units = int(self.lengths[rows].max()) * len(rows)
        if self._room is not None and units > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.batches.append(rows.tolist())
        self.now += self._seconds(units)
        return np.repeat(rows.astype(np.float32)[:, None], 2, axis=1)

    def work(self, size: BatchSize) -> np.ndarray:
        out = np.full((len(self.lengths), 2), -1, np.float32)
        in_batches(self.lengths, self.run, out, size, FEW, clock=lambda: self.now)
        return out


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 200), st.integers(60, 400))
def test_every_content_is_run_once_and_its_vector_lands_in_its_row(
    lengths: list[int], first: int, room: int
) -> None:
    """Whatever the lengths, the size at first and the memory; no batch is larger than what fits."""
    machine = Machine(lengths, lambda units: 0.01, room)
    found = machine.work(BatchSize(first, 1 << 20))
    assert found[:, 0].tolist() == list(range(len(lengths)))
    assert sorted(row for rows in machine.batches for row in rows) == list(range(len(lengths)))
    for rows in machine.batches:
        held = machine.lengths[rows]
        assert held.max() == held.min() or (len(rows) <= FEW and held.max() <= held.min() * ALIKE)


def test_batches_double_while_that_pays() -> None:
    """A cost of 1 s a batch and 1 ms a unit: doubling pays until a batch takes some 20 s; then it stays."""
    machine = Machine([10] * 60_000, lambda units: 1 + units / 1000)
    size = BatchSize(100, 1 << 20)
    machine.work(size)
    sizes = list(dict.fromkeys(len(rows) * 10 for rows in machine.batches[:-1]))
    assert sizes[:4] == [100, 200, 400, 800]
    assert size.settled
    assert 6_400 <= size.units <= 25_600
    assert len(machine.batches) < 80


def test_batches_do_not_grow_where_larger_ones_are_slower() -> None:
    """Beyond 400 units a batch falls out of the cache: 400 it stays, though 800 was tried."""
    machine = Machine([10] * 5_000, lambda units: 0.1 + units / (1000 if units <= 400 else 200))
    size = BatchSize(100, 1 << 20)
    machine.work(size)
    assert (size.units, size.settled) == (400, True)


def test_batches_do_not_grow_into_the_last_of_the_memory() -> None:
    """With a fifth of the memory free the first size stays; nor do they grow past the most."""
    for most, left in ((1 << 20, 0.2), (150, 1.0)):
        size = BatchSize(100, most, lambda left=left: left)  # type: ignore[misc]
        Machine([10] * 2_000, lambda units: 1.0).work(size)
        assert (size.units, size.settled) == (100, True)


def test_short_of_memory_halves_and_goes_on() -> None:
    """Room for 150 units, batches of 1,000 at first: halved until they fit, never so large again, all encoded."""
    machine = Machine([10] * 500, lambda units: 1.0, room=150)
    size = BatchSize(1_000, 1 << 20)
    assert (machine.work(size)[:, 0] == np.arange(500)).all()
    assert size.units == 125
    assert {len(rows) for rows in machine.batches[:-1]} == {12}


def test_one_content_that_does_not_fit_is_named() -> None:
    """What cannot be halved any more is not tried for ever."""
    machine = Machine([10, 10, 300, 10], lambda units: 1.0, room=150)
    with pytest.raises(TooLargeError) as caught:
        machine.work(BatchSize(1_000, 1 << 20))
    assert caught.value.row == 2


def test_only_memory_is_taken_for_memory() -> None:
    """Torch's devices and ONNX Runtime say it each in their words; any other error is passed on."""
    import torch

    short = [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc: Failed to allocate memory for requested buffer of size 1"),
        MemoryError(),
    ]  # fmt: skip
    assert all(map(is_out_of_memory, short))
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))

    def broken(rows: np.ndarray) -> np.ndarray:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_batches(np.ones(3, np.int64), broken, np.zeros((3, 2), np.float32), BatchSize(8, 8), FEW)
