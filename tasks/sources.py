"""Reading what a project names: item tables, gold, label files; every bad row named with its reason.

One row must not stop a million: rows without content or with an unreadable image are counted and listed. What
makes the whole file doubtful (a missing column, one id for two different items) is an error.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import escape, glob
from pathlib import Path
from uuid import UUID

import polars as pl

from tasks.errors import ConfigError, InputError
from tasks.project import Project
from tasks.records import image_key, normalise, text_key
from tasks.taxonomy import Taxonomy

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
TABLE_SUFFIXES = {".parquet", ".csv", ".jsonl", ".ndjson"}
SHOWN_ROWS = 5
ITEM_SCHEMA = {"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary}
SLICE = "slice: "
USUAL_SLICES = ("language", "source")
"""Columns of a gold file by which mistakes are counted apart where the project names none."""


@dataclass(frozen=True)
class Rejection:
    """A row that was left out: `row` is 1-based in `file`, the header not counted."""

    file: str
    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class Items:
    """Items read from one file: a frame of key, source_id, text, image, row (and what else was kept)."""

    file: Path
    frame: pl.DataFrame
    rejections: tuple[Rejection, ...] = ()


@dataclass(frozen=True)
class Gold:
    """Gold as read: a frame of key, source_id, text, image, label (one row a key), and the rows left out.

    `slices` has the key and, as text, the columns by which mistakes are counted apart.
    """

    frame: pl.DataFrame
    rejections: tuple[Rejection, ...] = ()
    slices: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"key": pl.Binary}))

    @property
    def rejected(self) -> dict[str, int]:
        """Rows left out, by their reason (without the names of files)."""
        return dict(Counter(rejection.reason.split(":")[0] for rejection in self.rejections))


def expand(written: str, base: Path) -> list[Path]:
    """The files a source names: one file, a folder of images, or a sorted glob.

    Raises:
        ConfigError: nothing is there, or the suffix is none that can be read.
    """
    path = Path(written).expanduser()
    if not path.is_absolute():
        written = str(Path(escape(str(base))) / path)  # only what the user wrote is a pattern
        path = base / path
    else:
        written = str(path)
    # A name that exists is taken as it stands, whatever brackets are in it.
    found = [path] if path.exists() else sorted(Path(name) for name in glob(written, recursive=True))  # noqa: PTH207 - patterns may be absolute
    if not found:
        raise ConfigError(
            path, "there is no such file", "Give a parquet, csv or jsonl file, a glob, or an image folder."
        )
    for file in found:
        if file.is_file() and file.suffix.lower() not in TABLE_SUFFIXES:
            raise ConfigError(
                file, f"{file.suffix or 'no'} suffix cannot be read", "Use .parquet, .csv or .jsonl."
            )
    return found


def read_table(file: Path, columns: Sequence[str] = (), dtype_text: bool = True) -> pl.DataFrame:
    """One table as a frame; `columns` must be among its columns.

    Raises:
        InputError: unreadable or empty file, a missing column (those there are named).
    """
    if not file.exists():
        raise InputError(file, "there is no such file", "Check the path.")
    try:
        if file.is_dir():
            frame = _image_folder(file)
        elif file.suffix.lower() == ".parquet":
            frame = pl.read_parquet(file)
        elif file.suffix.lower() == ".csv":
            # Every cell as text: ids such as 007 must not become numbers.
            frame = pl.read_csv(file, infer_schema=not dtype_text, encoding="utf8")
        else:
            frame = pl.read_ndjson(file, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(file, error) from error
    if frame.height == 0:
        what = "images" if file.is_dir() else "rows"
        raise InputError(file, f"has no {what}", f"Give one with {what} in it.")
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(
            file,
            f"column {missing[0]!r} is missing",
            f"It has: {', '.join(frame.columns[:20])}. Name the right ones under source in the project file.",
        )
    return frame


def unreadable(file: Path, error: Exception) -> InputError:
    """What to raise where a library could not read a table."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(file, f"cannot be read ({reason})", "Is it complete, and UTF-8 if it is text?")


def column_names(file: Path) -> list[str]:
    """The columns of a table, read from its head alone; none where it cannot be read (reading it says why)."""
    try:
        if file.suffix.lower() == ".parquet":
            return list(pl.read_parquet_schema(file))
        if file.suffix.lower() == ".csv":
            return pl.read_csv(file, n_rows=0).columns
        return pl.read_ndjson(file, n_rows=1).columns
    except (pl.exceptions.PolarsError, OSError):
        return []


def read_sql(url: str, query: str) -> pl.DataFrame:
    """The rows of a query against any database SQLAlchemy can reach.

    Raises:
        InputError: the database or the query fails.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    from tasks.database_urls import without_password

    shown = "source.items"
    try:
        shown = without_password(url)
        engine = create_engine(url)
        try:
            with engine.connect() as connection:
                result = connection.execute(text(query))
                names, rows = list(result.keys()), result.fetchall()
        finally:
            engine.dispose()
        # UUIDs and the like have no place in a frame; as an id or a text they are what they print as.
        cells = [tuple(str(cell) if isinstance(cell, UUID) else cell for cell in row) for row in rows]
        return pl.DataFrame(cells, schema=names, orient="row", infer_schema_length=None)
    except (SQLAlchemyError, ImportError, pl.exceptions.PolarsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(shown, reason, "Check source.items and source.query.") from error


def is_sql(written: str) -> bool:
    """Whether a source is a database URL rather than a path."""
    return "://" in written


def read_items(
    project: Project, frame: pl.DataFrame, file: Path, keep: Sequence[str] = (), first_row: int = 1
) -> Items:
    """Items of a frame by the project's id and content columns; further columns named in `keep` stay.

    Rows repeat freely (one content, one key); a row without content or id is rejected with its reason. Where
    the project names no id column and the table has no `id`, the key (hexadecimal) is the id.
    `first_row` is the number of the frame's first row in the file.

    Raises:
        InputError: one id stands for two different items.
    """
    id_column, content = (
        project.source.id or ("id" if "id" in frame.columns else None),
        project.content_column,
    )
    for column in (id_column, content):
        if column is not None and column not in frame.columns:
            raise InputError(
                file, f"column {column!r} is missing", f"It has: {', '.join(frame.columns[:20])}."
            )
    try:
        ids = [None] * frame.height if id_column is None else frame[id_column].cast(pl.String).to_list()
    except pl.exceptions.PolarsError as error:
        raise InputError(
            file, f"ids in column {id_column!r} cannot be read as text", "Use text or whole numbers."
        ) from error
    rejections: list[Rejection] = []
    keys: list[bytes | None] = []
    texts: list[str | None] = []
    images: list[bytes | None] = []
    numbered = enumerate(zip(ids, frame[content].to_list(), strict=True), start=first_row)
    for row, (source_id, value) in numbered:
        key, text, image, reason = (
            _read_image(value, file) if project.task.modality == "image" else _read_text(value)
        )
        if reason is None and not source_id and id_column is not None:
            reason = "empty id"
        if reason is not None:
            rejections.append(Rejection(str(file), row, source_id or "", reason))
        keys.append(key if reason is None else None)
        texts.append(text)
        images.append(image)
    if id_column is None:
        ids = [key.hex() if key is not None else None for key in keys]
    read = pl.DataFrame(
        {"key": keys, "source_id": ids, "text": texts, "image": images}, schema=ITEM_SCHEMA
    ).with_columns(frame[column] for column in keep)
    read = read.with_row_index("row", offset=first_row).filter(pl.col("key").is_not_null())
    one_item_an_id(read, file)
    return Items(file, read, tuple(rejections))


def one_item_an_id(frame: pl.DataFrame, file: Path) -> None:
    """Refuse items (row, source_id, key) of which two share an id.

    Raises:
        InputError: with the ids and their rows.
    """
    clashes = (
        frame.unique(["source_id", "key"], keep="first", maintain_order=True)
        .group_by("source_id", maintain_order=True)
        .agg("row")
        .filter(pl.col("row").list.len() > 1)
    )
    if clashes.height:
        shown = "; ".join(
            f"id {row['source_id']!r} in rows {', '.join(map(str, row['row'][:SHOWN_ROWS]))}"
            for row in clashes.head(SHOWN_ROWS).to_dicts()
        )
        raise InputError(
            file,
            f"{clashes.height} duplicate ids with different content ({shown})",
            "Give every item an id of its own.",
            int(clashes["row"][0][1]),
        )


def _read_text(value: object) -> tuple[bytes | None, str | None, bytes | None, str | None]:
    text = normalise(str(value)) if value is not None else ""
    return (text_key(text), text, None, None) if text else (None, None, None, "empty text")


def _read_image(value: object, file: Path) -> tuple[bytes | None, str | None, bytes | None, str | None]:
    """Bytes are kept in the database; a path is kept as a path, its file read for the key."""
    from PIL import Image

    # What Pillow's decoders were seen to raise on damaged files.
    unreadable = (
        OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, MemoryError,
        struct.error, zlib.error, Image.DecompressionBombError,
    )  # fmt: skip
    if isinstance(value, bytes):
        path, content = None, value
    elif isinstance(value, str) and value:
        found = Path(value) if Path(value).is_absolute() else (file if file.is_dir() else file.parent) / value
        if not found.is_file():
            return None, None, None, f"no such image file: {value}"
        try:
            path, content = str(found.absolute()), found.read_bytes()
        except OSError as error:
            return None, None, None, f"unreadable image ({type(error).__name__})"
    else:
        return None, None, None, "no image"
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (32, 32))  # a JPEG decodes faster small, and a cut one still shows
            image.load()
    except unreadable as error:
        return None, None, None, f"unreadable image ({type(error).__name__})"
    return image_key(content), path, None if path else content, None


def _image_folder(folder: Path) -> pl.DataFrame:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    names = [str(path.relative_to(folder)) for path in files]
    return pl.DataFrame({"id": names, "image": names}, schema={"id": pl.String, "image": pl.String})


def iterate_sources(project: Project, written: str, query: str | None) -> Iterator[tuple[Path, pl.DataFrame]]:
    """Every table a source names, one at a time."""
    if is_sql(written):
        if not query:
            raise ConfigError(project.file, "a database needs a query", "Set source.query.", "source.query")
        yield Path("query"), read_sql(written, query)
        return
    for file in expand(written, project.file.parent):
        yield file, read_table(file)


def label_columns(
    frame: pl.DataFrame, taxonomy: Taxonomy, file: Path, columns: Sequence[str] = ()
) -> list[str]:
    """The columns that hold a label: those given, else one a level, else `label`.

    Raises:
        InputError: none of them is there.
    """
    wanted = list(columns) or (
        list(taxonomy.levels) if set(taxonomy.levels) <= set(frame.columns) else ["label"]
    )
    if missing := [column for column in wanted if column not in frame.columns]:
        raise InputError(
            file,
            f"label column {missing[0]!r} is missing",
            f"Expected one column a level ({', '.join(taxonomy.levels)}) or one column `label`; "
            f"it has: {', '.join(frame.columns[:20])}.",
        )
    return wanted


def resolve_labels(
    frame: pl.DataFrame, columns: Sequence[str], taxonomy: Taxonomy
) -> list[tuple[str | None, str]]:
    """For each row the leaf it means (None if there is none) and what was written."""
    known: dict[tuple[object, ...], tuple[str | None, str]] = {}
    resolved = []
    for row in frame.select(pl.col(column).cast(pl.String) for column in columns).iter_rows():
        if row not in known:
            written = " > ".join(value for value in row if value)
            label = taxonomy.from_columns(row) if len(columns) > 1 else taxonomy.resolve(written)
            known[row] = (label, written)
        resolved.append(known[row])
    return resolved


def read_gold(project: Project) -> pl.DataFrame:
    """Gold items as a frame of key, source_id, text, image, label; one row a key. See `read_gold_rows`."""
    return read_gold_rows(project).frame


def read_gold_rows(project: Project) -> Gold:
    """Gold items, and the rows without content or id that are none.

    Raises:
        InputError: an unknown label, or one item with two different gold labels, with its row.
    """
    schema = ITEM_SCHEMA | {"label": pl.String}
    if project.gold is None:
        return Gold(pl.DataFrame(schema=schema))
    taxonomy = project.taxonomy
    frames, rejections = [], list[Rejection]()
    for file in expand(project.gold, project.file.parent):
        table = read_table(file)
        columns = label_columns(table, taxonomy, file)
        sliced = _slice_columns(project, table, file)
        items = read_items(project, table.with_columns(**sliced), file, [*columns, *sliced])
        rejections += items.rejections
        resolved = resolve_labels(items.frame, columns, taxonomy)
        for row, (label, written) in zip(items.frame["row"], resolved, strict=True):
            if label is None:
                near, became = taxonomy.nearest(written), taxonomy.moved.get(written, ())
                hint = f" Did you mean {near!r}?" if near else ""
                if len(became) > 1:
                    hint = f" It was split into {', '.join(became)}."
                raise InputError(
                    file,
                    f"unknown gold label {written!r}",
                    f"Correct it or add it to the taxonomy.{hint}",
                    row,
                )
        labelled = items.frame.with_columns(pl.Series("label", [label for label, _ in resolved], pl.String))
        frames.append(labelled.select("row", *schema, *sliced).with_columns(pl.lit(str(file)).alias("file")))
    gold = pl.concat(frames, how="diagonal")
    clashes = (
        gold.unique(["key", "label"], keep="first", maintain_order=True)
        .group_by("key", maintain_order=True)
        .agg("row", "file")
        .filter(pl.col("row").list.len() > 1)
    )
    if clashes.height:
        first = clashes.row(0, named=True)
        raise InputError(
            first["file"][1],
            "one item has two different gold labels",
            "Gold must be sure: decide, and keep one row.",
            first["row"][1],
        )
    gold = gold.unique("key", keep="first", maintain_order=True).drop("row", "file")
    named = {name: name.removeprefix(SLICE) for name in gold.columns if name.startswith(SLICE)}
    return Gold(gold.select(*schema), tuple(rejections), gold.select("key", *named).rename(named))


def _slice_columns(project: Project, table: pl.DataFrame, file: Path) -> dict[str, pl.Expr]:
    """The columns to slice by, as text and under names that no other column bears.

    Raises:
        InputError: one that the project names is not there.
    """
    wanted = project.slices
    if wanted is None:
        wanted = tuple(name for name in USUAL_SLICES if name in table.columns)
    if missing := [name for name in wanted if name not in table.columns]:
        raise InputError(
            file,
            f"column {missing[0]!r} is missing, by which `slices` counts mistakes apart",
            f"It has: {', '.join(table.columns[:20])}.",
        )
    return {SLICE + name: pl.col(name).cast(pl.String, strict=False).replace("", None) for name in wanted}
