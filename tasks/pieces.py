"""Tables of any size, some thousand rows at a time; what holds of a whole file is looked at before its first rows.

Reads what `sources` reads, row by row the same. Holds one piece, and eight bytes a row while ids are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tasks.project import Project
from tasks.sources import Items, column_names, one_item_an_id, read_items, read_table, unreadable

PIECE_ROWS = 32_768
"""Some tens of megabytes of texts; fewer rows would ask the database more often."""

IMAGE_PIECE_ROWS = 4096
"""Images may lie in the table itself, and one takes as much as a thousand texts."""


def read_in_pieces(
    file: Path, columns: Sequence[str] | None = None, rows: int = PIECE_ROWS
) -> Iterator[pl.DataFrame]:
    """The rows of a table, `rows` at a time (fewer in the last piece), in their order.

    Parquet and CSV are read as they go; JSON lines and the names in a folder of images are read at once, since
    any line may bring another column.

    Args:
        file: as in `read_table`.
        columns: only these, which the table has; None is all.
        rows: of a piece.

    Raises:
        InputError: unreadable or empty file.
    """
    suffix = file.suffix.lower()
    if not file.is_file() or suffix not in (".parquet", ".csv"):
        table = read_table(file)
        table = table if columns is None else table.select(columns)
        yield from table.iter_slices(rows)
        return
    some = False
    try:
        frames = _parquet(file, columns, rows) if suffix == ".parquet" else _csv(file, columns, rows)
        for piece in _of_equal_size(frames, rows):
            some = True
            yield piece
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(file, error) from error
    if not some:
        read_table(file)  # says what is wrong with it


def _parquet(file: Path, columns: Sequence[str] | None, rows: int) -> Iterator[pl.DataFrame]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    usual = pa.default_memory_pool()
    try:
        # The usual pool keeps what it is given back: of a piece of 1 MB some 40 MB after fifty pieces. Whoever opens a
        # file decides from which one it is read.
        pa.set_memory_pool(pa.system_memory_pool())
        try:
            # Without reading ahead: else a row group's bytes are held whole, and one may be the file.
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        finally:
            pa.set_memory_pool(usual)
        with table:
            for batch in table.iter_batches(rows, columns=None if columns is None else list(columns)):
                frame = pl.from_arrow(pa.Table.from_batches([batch]))
                assert isinstance(frame, pl.DataFrame)
                yield frame
    except pa.ArrowException as error:
        raise unreadable(file, error) from error


def _csv(file: Path, columns: Sequence[str] | None, rows: int) -> Iterator[pl.DataFrame]:
    table = pl.scan_csv(file, infer_schema=False, encoding="utf8")  # every cell as text, as `read_table` does
    wanted = table if columns is None else table.select(columns)
    yield from wanted.collect_batches(chunk_size=rows, maintain_order=True, lazy=True)


def _of_equal_size(frames: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        while sum(part.height for part in held) >= rows:
            joined = pl.concat(held)
            yield joined[:rows]
            held = [joined[rows:]]
    if held and (last := pl.concat(held)).height:
        yield last


def items_in_pieces(
    project: Project, file: Path, rows: int | None = None, table: pl.DataFrame | None = None
) -> Iterator[Items]:
    """The items of a table, piece by piece, as `read_items` gives them; rows are numbered over the whole file.

    A table of several pieces is gone through once before its first piece is given, so that who keeps the pieces
    keeps all of a table or, where anything of it cannot be read, nothing.

    Args:
        project: names the columns.
        file: as in `read_table`.
        rows: of a piece; None takes `PIECE_ROWS`, of images `IMAGE_PIECE_ROWS`.
        table: what came of a query, which is then read instead of the file.

    Raises:
        InputError: as reading the whole table would, and before the first piece is given.
    """
    rows = rows or (IMAGE_PIECE_ROWS if project.task.modality == "image" else PIECE_ROWS)
    names = column_names(file) if table is None and file.is_file() else []
    wanted = list(dict.fromkeys((project.source.id or "id", project.content_column)))
    there = [column for column in wanted if column in names]
    # All columns where one is missing, so that the error names those there are.
    enough = project.content_column in there and (project.source.id is None or project.source.id in there)

    def pieces() -> Iterator[pl.DataFrame]:
        if table is not None:
            return table.iter_slices(rows)
        return read_in_pieces(file, there if enough else None, rows)

    first_row = 1
    for frame, last in _with_last(pieces()):
        if first_row == 1 and not last:
            _check(project, file, wanted[0], pieces)
        yield read_items(project, frame, file, first_row=first_row)
        first_row += frame.height


def _with_last(pieces: Iterator[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, bool]]:
    """Each piece, and whether none comes after it."""
    ahead = next(pieces, None)
    while ahead is not None:
        frame, ahead = ahead, next(pieces, None)
        yield frame, ahead is None


def _check(
    project: Project, file: Path, id_column: str, pieces: Callable[[], Iterator[pl.DataFrame]]
) -> None:
    """Refuse what cannot be read to its end, and one id for two different items, wherever they stand.

    Contents are compared only of ids that repeat.
    """
    hashes = []
    for frame in pieces():
        if id_column in frame.columns:
            try:
                hashes.append(_hashed(frame[id_column].cast(pl.String)))
            except pl.exceptions.PolarsError:
                read_items(project, frame, file)  # says that these ids are no text
    repeated = _repeated(hashes)
    if not repeated.len():
        return
    met = []
    for frame in pieces():
        items = read_items(
            project, frame.filter(_hashed(frame[id_column]).is_in(repeated.implode())), file
        ).frame
        met.append(pl.DataFrame({"id": _hashed(items["source_id"]), "content": _hashed(items["key"])}))
    distinct = pl.concat(met).unique()
    clashing = distinct.filter(distinct["id"].is_duplicated())["id"].unique()
    if clashing.len():
        suspects, first_row = [], 1
        for frame in pieces():
            items = read_items(project, frame, file, first_row=first_row).frame
            suspects.append(items.filter(_hashed(items["source_id"]).is_in(clashing.implode())))
            first_row += frame.height
        one_item_an_id(pl.concat(suspects), file)


def _hashed(values: pl.Series) -> pl.Series:
    """64 bits of each value; an id counts as what it is as text, and none is null."""
    texts = values if values.dtype == pl.Binary else values.cast(pl.String)
    return pl.select(pl.when(texts.is_not_null()).then(texts.hash()))[:, 0].alias("hashed")


def _repeated(hashes: list[pl.Series]) -> pl.Series:
    """What stands among the hashes more than once, each once."""
    found = np.concatenate([np.zeros(0, np.uint64), *(some.drop_nulls().to_numpy() for some in hashes)])
    found.sort()
    return pl.Series(np.unique(found[1:][found[1:] == found[:-1]]))
