"""The items table: appending what is new, reading back by key."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sqlalchemy import bindparam, func, insert, select, update

from tasks.errors import InputError
from tasks.records import KEY_BYTES
from tasks.store import schema
from tasks.store.database import Store, get_meta
from tasks.store.synthetic import synthetic_keys
from tasks.synthetic import SYNTHETIC

FEW_KEYS = 30_000  # up to here a query names them; databases take some ten thousands of values in one
KEYS_AT_ONCE = 50_000


def known_keys(store: Store) -> pl.DataFrame:
    """All item keys, one column `key`."""
    return store.read(select(schema.items.c.key))


class KnownKeys:
    """The keys of all items, 16 bytes each: for the one writer that appends many frames of items one after the other.

    Without it each of them would read the whole table.
    """

    def __init__(self, store: Store) -> None:
        chunks = (_packed(chunk["key"]) for chunk in store.stream(select(schema.items.c.key)))
        self._keys = np.sort(np.concatenate([_packed(pl.Series(dtype=pl.Binary)), *chunks]))
        self.synthetic = synthetic_keys(store)

    def of(self, items: pl.DataFrame) -> pl.DataFrame:
        """Those of the items' keys that are there."""
        found = _packed(items["key"])
        places = np.searchsorted(self._keys, found)
        there = np.append(self._keys, np.zeros(1, self._keys.dtype))[places] == found
        return items.select("key").filter(pl.Series(there & (places < len(self._keys))))

    def add(self, items: pl.DataFrame) -> None:
        """Count items as there that were appended."""
        added = np.sort(_packed(items["key"]))
        self._keys = np.insert(self._keys, np.searchsorted(self._keys, added), added)


def _packed(keys: pl.Series) -> NDArray[np.bytes_]:
    """Keys as an array that sorts; all are of one length, so that no zeros at their ends are lost."""
    return np.frombuffer(b"".join(keys.to_list()), f"S{KEY_BYTES}")


def append_items(
    store: Store, items: pl.DataFrame, origin: str, run_id: int, known: KnownKeys | None = None
) -> int:
    """Append the items whose key is not there yet; returns how many were new.

    A synthetic example that turns up for real is a real item from then on, and counts as new.

    Args:
        store: the open database.
        items: columns key, source_id, text, image.
        origin: source, traffic or import.
        run_id: the job that brings them.
        known: what is there, where more is appended after this; it counts these items from then on.
    """
    distinct, now = items.unique("key", keep="first", maintain_order=True), time.time()
    met = distinct.join(synthetic_keys(store) if known is None else known.synthetic, on="key", how="semi")
    _make_real(store, met, origin, run_id, now)
    there = _known_of(store, distinct) if known is None else known.of(distinct)
    fresh = distinct.join(there, on="key", how="anti", maintain_order="left")
    new = met.height + store.append(
        schema.items,
        (
            {**row, "origin": origin, "run_id": run_id, "added_at": now}
            for row in fresh.select("key", "source_id", "text", "image").iter_rows(named=True)
        ),
    )
    if known is not None:
        known.add(fresh)
        known.synthetic = known.synthetic.join(met, on="key", how="anti")
    return new


def _known_of(store: Store, items: pl.DataFrame) -> pl.DataFrame:
    """Those of the items' keys that are there; the table streams past."""
    wanted = items.select("key")
    met = [
        chunk.join(wanted, on="key", how="semi")
        for chunk in store.stream(select(schema.items.c.key), KEYS_AT_ONCE)
    ]
    return pl.concat(met) if met else wanted.clear()


def _make_real(store: Store, met: pl.DataFrame, origin: str, run_id: int, now: float) -> None:
    """Turn synthetic examples into real items; their synthetic labels stay what they are."""
    if not met.height:
        return
    columns = schema.items.c
    change = (
        update(schema.items)
        .where(columns.key == bindparam("met"), columns.origin == SYNTHETIC)
        .values(source_id=bindparam("named"), origin=origin, run_id=run_id, added_at=now)
    )
    with store.begin() as connection:
        connection.execute(
            change, [{"met": key, "named": name} for key, name in met.select("key", "source_id").iter_rows()]
        )


def read_contents(store: Store, keys: pl.DataFrame | None = None) -> pl.DataFrame:
    """key, source_id, text, image, origin of all items, or of those in `keys` (a column `key`)."""
    columns = schema.items.c
    query = select(columns.key, columns.source_id, columns.text, columns.image, columns.origin)
    query = query.order_by(columns.id)
    if keys is None:
        return store.read(query)
    wanted = keys.select("key").unique()
    if wanted.height <= FEW_KEYS:
        return store.read(query.where(columns.key.in_(wanted["key"].to_list())))
    found = [chunk.join(wanted, on="key", how="semi", maintain_order="left") for chunk in store.stream(query)]
    return pl.concat(found) if found else store.read(query)


def newest_items(store: Store, count: int) -> pl.DataFrame:
    """key, text, image of the items that came last, at most `count`; synthetic examples are not among them."""
    columns = schema.items.c
    query = select(columns.key, columns.text, columns.image).where(columns.origin != SYNTHETIC)
    return store.read(query.order_by(columns.id.desc()).limit(count))


def count_items(store: Store) -> int:
    """How many items there are, synthetic examples not counted."""
    real = select(func.count()).select_from(schema.items).where(schema.items.c.origin != SYNTHETIC)
    return int(store.scalar(real) or 0)


def source_unchanged(store: Store, path: str, size: int, modified_at: float, settings: str) -> bool:
    """Whether a source file was already read as it is now, under the same settings."""
    columns = schema.sources.c
    row = store.read(
        select(columns.size, columns.modified_at, columns.settings)
        .where(columns.path == path)
        .order_by(columns.id.desc())
        .limit(1)
    )
    return row.height == 1 and row.row(0) == (size, modified_at, settings)


def note_source(store: Store, path: str, size: int, modified_at: float, rows: int, settings: str) -> None:
    """Remember that a source file was read."""
    values = {"path": path, "size": size, "modified_at": modified_at, "rows": rows, "settings": settings}
    with store.begin() as connection:
        connection.execute(insert(schema.sources), values | {"at": time.time()})


def rejected_before(
    store: Store, file: Path, settings: str, now: Mapping[str, int] | None = None
) -> dict[str, int]:
    """How many rows of a source file as it is now were rejected, by reason, when it was first read.

    Args:
        store: the open database.
        file: the source.
        settings: under which it was read.
        now: what is remembered if nothing is yet.
    """
    stat = file.stat()
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([str(file), stat.st_size, stat.st_mtime, settings]).encode())
    said: dict[str, int] = json.loads(
        get_meta(store, f"rejected:{digest.hexdigest()}", json.dumps(dict(now or {})))
    )
    return said


def content_of(items: pl.DataFrame, modality: str) -> list[str] | list[bytes]:
    """Each item's content: its text, or its image's bytes (read from its path where only that is kept).

    Raises:
        InputError: an image file that was taken in by its path is gone.
    """
    if modality == "text":
        return items["text"].to_list()
    return [
        image if image is not None else _file_bytes(path)
        for path, image in items.select("text", "image").iter_rows()
    ]


def _file_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            path, f"cannot be read ({error.strerror})", "It was there when it was taken in: put it back."
        ) from error
