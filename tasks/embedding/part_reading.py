"""A part as it is read: told from any other file, its keys and vectors taken from where they stand in it.

What was written elsewhere, or by another version of parquet's writer, is decoded where it can be and refused by
name where it cannot. Knows nothing of which keys are wanted, nor of other parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.embedding.folders import Folder
from tasks.embedding.parts import FORMAT, Block, Part, Rows, StorageDtype, crc_of
from tasks.errors import DamagedPartError
from tasks.records import KEY_BYTES


def open_part(folder: Folder, name: str, dtype: StorageDtype) -> Part:
    """What a part says of itself; neither keys nor vectors are read.

    Raises:
        DamagedPartError: cut, no part of ours, or one of another encoder.
        FileNotFoundError: another process took it away.
    """
    with folder.open(name) as stream, _damage_named(folder, name):
        footer = pq.read_metadata(stream)
        said = {key.decode(): value.decode() for key, value in (footer.metadata or {}).items()}
        problem = _foreign(said, folder.name, dtype)
        if problem is not None:
            raise DamagedPartError(f"{folder}/{name}", problem)
        dimension, checks = int(said["dimension"]), json.loads(said["crc32"])
        width = dimension * np.dtype(dtype).itemsize
        schema = footer.schema.to_arrow_schema()
        if schema.names[:2] != ["key", "vector"] or schema.types[:2] != [
            pa.binary(KEY_BYTES),
            pa.binary(width),
        ]:
            raise DamagedPartError(f"{folder}/{name}", "does not hold keys and vectors")
        blocks, first = [], 0
        for group, crc in zip(range(footer.num_row_groups), checks, strict=True):
            about = footer.row_group(group)
            if about.num_rows <= 0:
                raise DamagedPartError(f"{folder}/{name}", "has a row group without rows")
            keys_at, vectors_at = (
                _values_at(about.column(column), stream, about.num_rows, size)
                for column, size in ((0, KEY_BYTES), (1, width))
            )
            blocks.append(Block(first, about.num_rows, keys_at, vectors_at, crc))
            first += about.num_rows
        return Part(name, dimension, dtype, tuple(blocks), tuple(json.loads(said["replaces"])))


def read_keys(folder: Folder, part: Part) -> NDArray[np.uint8]:
    """Keys uint8 [n, 16] of a part, in the order of its rows.

    Raises:
        DamagedPartError: fewer bytes than the footer says.
        FileNotFoundError: another process took it away.
    """
    keys = np.empty((part.rows, KEY_BYTES), np.uint8)
    for group, block in enumerate(part.blocks):
        here = keys[block.first : block.first + block.rows]
        if block.keys_at is None:
            here[:] = decoded(folder, part, group, "key", KEY_BYTES)
        else:
            read_spans(folder, part, [(block.keys_at, here)])
    return keys


def read_blocks(folder: Folder, part: Part) -> Iterator[Rows]:
    """All rows of a part, block by block, each checked against its checksum.

    Raises:
        DamagedPartError: a bit is not what was written.
        FileNotFoundError: another process took it away.
    """
    for group, block in enumerate(part.blocks):
        keys = np.empty((block.rows, KEY_BYTES), np.uint8)
        vectors = np.empty((block.rows, part.dimension), part.dtype)
        for column, offset, out in (("key", block.keys_at, keys), ("vector", block.vectors_at, vectors)):
            if offset is None:
                out.view(np.uint8)[:] = decoded(folder, part, group, column, out[0].nbytes)
            else:
                read_spans(folder, part, [(offset, out)])
        if crc_of(keys, vectors) != block.crc:
            raise DamagedPartError(f"{folder}/{part.name}", f"its checksum is wrong in row group {group}")
        yield Rows(keys, vectors)


def read_spans(folder: Folder, part: Part, spans: Sequence[tuple[int, NDArray[Any]]]) -> None:
    """Fill each array with what stands in the file from its offset on.

    Raises:
        DamagedPartError: the file ends before.
        FileNotFoundError: another process took it away.
    """
    if not folder.read_into(part.name, [(offset, out.data.cast("B")) for offset, out in spans]):
        raise DamagedPartError(f"{folder}/{part.name}", "is cut short")


def decoded(folder: Folder, part: Part, group: int, column: str, width: int) -> NDArray[np.uint8]:
    """Values uint8 [rows, width] of one row group by parquet's own reader, whatever its encoding."""
    with folder.open(part.name) as stream, _damage_named(folder, part.name):
        values = pq.ParquetFile(stream).read_row_group(group, columns=[column]).column(0).combine_chunks()
        array = values.chunk(0) if isinstance(values, pa.ChunkedArray) else values
        if array.null_count:
            raise DamagedPartError(f"{folder}/{part.name}", f"has rows without a {column}")
        if len(array) != part.blocks[group].rows:
            raise DamagedPartError(f"{folder}/{part.name}", f"lacks some {column}s in row group {group}")
        size = len(array) * width
        raw = np.frombuffer(array.buffers()[1], np.uint8, size, array.offset * width)
        return raw.reshape(len(array), width)


@contextmanager
def _damage_named(folder: Folder, name: str) -> Iterator[None]:
    """What parquet's reader raises on a cut or foreign file becomes a DamagedPartError; a failing disk does not."""
    try:
        yield
    except (pa.ArrowException, ValueError, KeyError, EOFError, OSError) as error:
        # Parquet's own complaints are OSErrors without a number; the system's have one.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DamagedPartError(f"{folder}/{name}", f"cannot be read ({reason})") from error


def _foreign(said: dict[str, str], fingerprint: str, dtype: str) -> str | None:
    if said.get("format") != FORMAT:
        return f"is of format {said.get('format')!r}, this version writes {FORMAT!r}"
    if said.get("fingerprint") != fingerprint:
        return f"was written by the encoder {said.get('fingerprint')!r}"
    if said.get("dtype") != dtype:
        return f"holds {said.get('dtype')}, not {dtype}"
    return None


def _values_at(column: Any, stream: BinaryIO, rows: int, width: int) -> int | None:
    """Where a column's values stand as they are; None where they have to be decoded.

    A data page's header begins with its kind and its two sizes as compact Thrift integers (parquet-format,
    PageHeader). Where both are the size of all values, there is one page, nothing is compressed and there are no
    definition levels before the values, which then end where the chunk ends.
    """
    size = column.num_values * width
    if column.num_values != rows or column.data_page_offset < 0:
        return None
    if column.compression != "UNCOMPRESSED" or column.has_dictionary_page:
        return None
    header = column.total_compressed_size - size
    doubled = _varint(2 * size)
    expected = b"\x15\x00\x15" + doubled + b"\x15" + doubled
    if not len(expected) < header < 256 or not set(column.encodings) <= {"PLAIN", "RLE"}:
        return None
    stream.seek(column.data_page_offset)
    return column.data_page_offset + header if stream.read(len(expected)) == expected else None


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
