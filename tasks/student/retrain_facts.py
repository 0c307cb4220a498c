"""What a version's retrain left under the project's root, as plain values. Derived: the next retrain writes its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def facts_of(root: Path, version: str) -> dict[str, Any] | None:
    """The facts of a version; None where it left nothing readable."""
    try:
        facts: dict[str, Any] = json.loads(
            (root / "retrains" / f"{version}.json").read_text(encoding="utf-8")
        )
        return facts
    except (OSError, ValueError):
        return None
