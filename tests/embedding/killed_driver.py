"""A driver to be killed: embeds `items.parquet` of a folder with two worker processes.

Run as `python -m tests.embedding.killed_driver FOLDER`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

from tasks.embedding.encoders import EncoderSettings
from tasks.embedding.spreading import embed_missing_by
from tasks.embedding.worker_processes import ProcessPool


def main() -> None:
    folder = Path(sys.argv[1])
    frame = pl.read_parquet(folder / "items.parquet")
    embed_missing_by(
        lambda: ProcessPool(2),
        EncoderSettings("hash:16"),
        folder,
        frame.select("key"),
        lambda _: frame,
        "image",
        shard_rows=12,
    )


if __name__ == "__main__":
    main()
