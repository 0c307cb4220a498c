"""The embedding cache: immutable parquet parts, keyed by item key, in a folder named by the encoder.

One fixed-length binary column holds a vector, which reads ten times faster than a list column. Parts are
written beside and renamed, so a kill at any byte leaves the cache as it was. Knows nothing of encoders.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import InputError
from tasks.records import KEY_BYTES

ROW_GROUP = 65_536


@dataclass(frozen=True)
class EmbeddingCache:
    """The vectors of one encoder; `folder` is named by its fingerprint."""

    folder: Path

    def keys(self) -> pl.DataFrame:
        """Cached keys with where they lie: key, part, row (one row a key)."""
        frames = [
            pl.DataFrame(pl.from_arrow(table.cast(pa.schema([("key", pa.binary())])))).with_columns(
                pl.lit(part.name).alias("part"), pl.int_range(pl.len()).alias("row")
            )
            for part in self._parts()
            if (table := self._keys_of(part)) is not None
        ]
        if not frames:
            return pl.DataFrame(schema={"key": pl.Binary, "part": pl.String, "row": pl.Int64})
        return pl.concat(frames).unique("key", keep="first", maintain_order=True)

    def missing(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Those of `keys` (a column `key`) that are not cached, each once."""
        return keys.select("key").unique(maintain_order=True).join(self.keys(), on="key", how="anti")

    def append(self, keys: list[bytes], vectors: np.ndarray) -> None:
        """Add one part with vectors float32 [n, d]; whole or not at all.

        Raises:
            ValueError: shapes do not fit, or a vector is not finite.
        """
        if vectors.ndim != 2 or len(keys) != len(vectors):
            raise ValueError(f"{len(keys)} keys for vectors of shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector holds NaN or infinity")
        dimension = vectors.shape[1]
        raw = np.ascontiguousarray(vectors, dtype=np.float32)
        table = pa.table(
            {
                "key": pa.array(keys, pa.binary(KEY_BYTES)),
                "vector": pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(4 * dimension), len(keys), [None, pa.py_buffer(raw)]
                ),
            },
            metadata={"dimension": str(dimension), "dtype": "float32"},
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"part-{uuid.uuid4().hex}.parquet"
        beside = self.folder / f".{name}.tmp"
        with beside.open("wb") as stream:
            pq.write_table(table, stream, row_group_size=ROW_GROUP, compression="none", use_dictionary=False)
            stream.flush()
            os.fsync(stream.fileno())
        beside.rename(self.folder / name)

    def read(self, keys: list[bytes]) -> np.ndarray:
        """Vectors float32 [n, d] of `keys`, in the order asked.

        Raises:
            KeyError: a key is not cached.
            InputError: parts of different dimension lie in one folder.
        """
        asked = pl.DataFrame({"key": keys}, schema={"key": pl.Binary}).with_row_index("place")
        found = asked.join(self.keys(), on="key", how="left", maintain_order="left")
        if lacking := found["part"].null_count():
            raise KeyError(
                f"{lacking} of {len(keys)} keys are not in the cache {self.folder.name}; run `flywheel embed`"
            )
        out: np.ndarray | None = None
        for (part,), rows in found.group_by("part"):
            vectors = self._vectors(self.folder / str(part))
            if out is None:
                out = np.empty((len(keys), vectors.shape[1]), dtype=np.float32)
            if vectors.shape[1] != out.shape[1]:
                raise InputError(
                    self.folder / str(part),
                    f"holds vectors of {vectors.shape[1]} dimensions, others {out.shape[1]}",
                    "Delete the folder: it is derived and will be rebuilt.",
                )
            out[rows["place"].to_numpy()] = vectors[rows["row"].to_numpy()]
        return out if out is not None else np.empty((0, 0), dtype=np.float32)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _keys_of(self, part: Path) -> pa.Table | None:
        """A part's keys; a part that is not one of ours is set aside, and its keys count as missing."""
        try:
            schema = pq.read_schema(part)
            if schema.field("key").type == pa.binary(KEY_BYTES) and _holds_vectors(
                schema.field("vector").type
            ):
                return pq.read_table(part, columns=["key"])
        except FileNotFoundError:
            return None  # another process set it aside first
        except (pa.ArrowInvalid, KeyError, OSError):
            pass
        with suppress(FileNotFoundError):
            part.rename(part.with_suffix(".damaged"))
        return None

    def _vectors(self, part: Path) -> np.ndarray:
        column = pq.read_table(part, columns=["vector"]).column("vector").combine_chunks()
        array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        width = array.type.byte_width
        return np.frombuffer(
            array.buffers()[1], dtype=np.float32, offset=array.offset * width, count=len(array) * width // 4
        ).reshape(len(array), width // 4)


def _holds_vectors(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_binary(kind) and kind.byte_width % 4 == 0
