"""What is sent: items, one or several to a request, in one pass.

A request without a branch asks for the whole path, or in two-stage prompting for the first level; one with a
branch asks for a leaf below that label.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One item: a text or the bytes of an image.

    `candidates` are the labels offered first (empty: all); `examples` are decided items (text, label) shown
    with it.
    """

    key: bytes
    content: str | bytes
    candidates: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Request:
    """Items to be asked about together in one pass (1-based)."""

    items: tuple[Item, ...]
    pass_number: int
    branch: str | None = None
