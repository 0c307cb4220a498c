"""One part of the cache: an immutable parquet file of keys and vectors, as it is written.

A row group is one uncompressed page a column, so that the vectors stand in the file as they stand in memory.
Knows nothing of which keys are wanted, nor of other parts.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.records import KEY_BYTES

FORMAT = "2"
SUFFIX = ".parquet"
DAMAGED_SUFFIX = ".damaged"
BLOCK_ROWS = 16_384  # below the 20,000 rows after which parquet writers begin another page
BLOCK_BYTES = 32 << 20
StorageDtype = Literal["float32", "float16"]


class Rows(NamedTuple):
    """Keys uint8 [n, 16] and their vectors [n, d] in the dtype they are stored in."""

    keys: NDArray[np.uint8]
    vectors: NDArray[Any]


@dataclass(frozen=True)
class Block:
    """One row group; an offset is None where the values do not stand in the file as they are."""

    first: int
    rows: int
    keys_at: int | None
    vectors_at: int | None
    crc: int


@dataclass(frozen=True)
class Part:
    """What the footer of a part says; `replaces` are the parts whose rows were merged into it."""

    name: str
    dimension: int
    dtype: StorageDtype
    blocks: tuple[Block, ...]
    replaces: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many vectors it holds."""
        return sum(block.rows for block in self.blocks)

    @property
    def width(self) -> int:
        """Bytes of one vector."""
        return self.dimension * np.dtype(self.dtype).itemsize


def block_rows(dimension: int, dtype: StorageDtype) -> int:
    """How many rows of one dimension make a block."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // (dimension * np.dtype(dtype).itemsize)))


def write_part(
    stream: BinaryIO,
    blocks: Iterable[Rows],
    fingerprint: str,
    dimension: int,
    dtype: StorageDtype,
    replaces: Sequence[str] = (),
) -> None:
    """Write a whole part, a row group a block; no more than one block is held.

    Args:
        stream: takes the bytes.
        blocks: of at most `block_rows` rows, all of one dimension and dtype.
        fingerprint: of the encoder; a reader of another one refuses the part.
        dimension: of the vectors.
        dtype: of the vectors.
        replaces: parts whose rows these are.
    """
    width = dimension * np.dtype(dtype).itemsize
    schema = pa.schema(
        [
            pa.field("key", pa.binary(KEY_BYTES), nullable=False),
            pa.field("vector", pa.binary(width), nullable=False),
        ]
    )
    checks = []
    with pq.ParquetWriter(
        stream,
        schema,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
        data_page_version="1.0",
        data_page_size=(1 << 31) - 1,
    ) as writer:
        for rows in blocks:
            columns = [np.ascontiguousarray(rows.keys), np.ascontiguousarray(rows.vectors, dtype=dtype)]
            checks.append(crc_of(*columns))
            writer.write_table(
                pa.Table.from_arrays([_binary(column) for column in columns], schema=schema),
                row_group_size=BLOCK_ROWS,
            )
        writer.add_key_value_metadata(
            {
                "format": FORMAT,
                "fingerprint": fingerprint,
                "dimension": str(dimension),
                "dtype": dtype,
                "crc32": json.dumps(checks),
                "replaces": json.dumps(list(replaces)),
            }
        )


def _binary(values: NDArray[Any]) -> Any:
    width = values[0].nbytes if len(values) else 1
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def crc_of(keys: NDArray[Any], vectors: NDArray[Any]) -> int:
    """CRC-32 of a block's bytes, keys before vectors."""
    return zlib.crc32(vectors.data.cast("B"), zlib.crc32(keys.data.cast("B")))
