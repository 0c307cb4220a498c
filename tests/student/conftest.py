from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Two torch threads on two busy cores are ten times slower than one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def clusters() -> tuple[np.ndarray, np.ndarray]:
    """600 unit vectors [600, 16] around 6 overlapping centres, and which centre each came from."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 16))
    y = rng.integers(0, 6, 600)
    X = centres[y] + rng.normal(scale=0.9, size=(600, 16))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), y
