"""Whether anything happened since the wheel last turned: a few numbers that only grow, and hashes of settings.

Cheap on purpose: no item is read, no model loaded, nothing written unless it changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select

from tasks.store import Store, schema
from tasks.store.items import count_items
from tasks.store.labels import newest_label_id
from tasks.store.traffic import newest_traffic_id

STATE = "wheel_state"


def wheel_state(store: Store, files: Sequence[Path], settings: str) -> dict[str, Any]:
    """What the next turn would start from.

    Args:
        store: the open database.
        files: inputs that are read each time (gold, taxonomy).
        settings: the settings that decide a training run, as text.
    """
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime) for file in files if file.exists()]
    digest = hashlib.blake2b(json.dumps([stats, settings]).encode(), digest_size=8).hexdigest()
    return {
        "items": count_items(store),
        "labels": newest_label_id(store),
        "traffic": newest_traffic_id(store),
        "inputs": digest,
    }


def remembered_state(store: Store, name: str = STATE) -> dict[str, Any] | None:
    """The state after the last complete turn, or what else was remembered under a name."""
    found = store.scalar(select(schema.meta.c.value).where(schema.meta.c.name == name))
    return json.loads(found) if found else None


def remember(store: Store, state: dict[str, Any], name: str = STATE) -> None:
    """Keep the state of a complete turn, or something else under its own name."""
    with store.begin() as connection:
        connection.execute(delete(schema.meta).where(schema.meta.c.name == name))
        connection.execute(insert(schema.meta), {"name": name, "value": json.dumps(state)})
