"""Signatures of texts kept by item key, so that a night computes those of new items only.

Parquet parts in one folder, derived from the texts: deleting them loses nothing but time. Knows no near-duplicate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from tasks.duplicates import BANDS, Signatures, signatures
from tasks.whole_files import written_whole

KEPT_FROM = 20_000
"""Of fewer texts they are computed in seconds and not kept."""

MOST_PARTS = 16
"""More parts than that are written again as one."""

NAMES = [f"band{band}" for band in range(BANDS)]


def kept_signatures(folder: Path, keys: pl.Series, texts: Sequence[str]) -> Signatures:
    """The signatures of the texts; afterwards those of many lie in the folder.

    A part that cannot be read is taken away, and what it held is computed anew.

    Args:
        folder: made if need be.
        keys: of the items [n], each once.
        texts: theirs [n].
    """
    if len(texts) < KEPT_FROM:
        return signatures(texts)
    parts = sorted(folder.glob("*.parquet"))
    read = [part for file in parts if (part := _read(file)) is not None]
    empty = pl.DataFrame(schema={"key": pl.Binary, **dict.fromkeys(NAMES, pl.UInt64)})
    known = pl.concat([empty, *read]).unique("key", keep="first")
    rows = keys.to_frame("key").with_row_index("place")
    lacking = rows.join(known, on="key", how="anti")
    if lacking.height:
        found = signatures([texts[place] for place in lacking["place"].to_list()])
        new = lacking.select("key").with_columns(
            pl.Series(name, found[:, band]) for band, name in enumerate(NAMES)
        )
        known = pl.concat([known, new])
        merged = len(parts) >= MOST_PARTS
        _write(folder, known if merged else new)
        if merged:
            for file in parts:
                file.unlink(missing_ok=True)
    return (
        rows.select("key").join(known, on="key", how="left", maintain_order="left").select(NAMES).to_numpy()
    )


def _write(folder: Path, part: pl.DataFrame) -> None:
    name = hashlib.blake2b(b"".join(part["key"].to_list()), digest_size=12).hexdigest()
    with written_whole(folder / f"{name}.parquet") as beside:
        part.write_parquet(beside)


def _read(file: Path) -> pl.DataFrame | None:
    try:
        return pl.read_parquet(file, columns=["key", *NAMES])
    except (pl.exceptions.PolarsError, OSError):
        file.unlink(missing_ok=True)
        return None
