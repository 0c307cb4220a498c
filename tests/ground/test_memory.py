"""Memory that a finished phase has freed."""

from __future__ import annotations

import platform

import psutil
import pytest

from tasks.memory import hand_back

PIECES, BYTES = 40_000, 2000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries hand back by themselves")
def test_what_was_freed_below_something_in_use_is_handed_back() -> None:
    """80 MB in small pieces, every 400th of which stays in use: without a hand-back the process would keep them all."""
    process = psutil.Process()
    pieces = [bytes(BYTES) for _ in range(PIECES)]
    kept = pieces[::400]
    pieces.clear()
    before = process.memory_info().rss
    hand_back()
    assert before - process.memory_info().rss > 40e6
    assert len(kept) == PIECES // 400
