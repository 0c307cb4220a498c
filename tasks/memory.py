"""Memory that a finished phase has freed, handed back to the system.

Allocators keep what was freed for the same kind of use; a job whose phases use different ones would hold the sum of
their peaks. Knows nothing of the phases.
"""

from __future__ import annotations

import ctypes
import gc
import sys


def hand_back() -> None:
    """Afterwards the process holds little more than what is in use; takes some tens of milliseconds.

    Cycles are collected and glibc returns its free pages (malloc_trim(3)); other C libraries do so by themselves.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
