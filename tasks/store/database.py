"""Opening the database, appending to it in batches and reading it into polars.

SQLite in WAL mode or PostgreSQL by URL, the same code over both. A project has its SQLite file, or a schema
of its own name on a PostgreSQL server. Knows nothing of what the tables mean.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import (
    URL,
    Boolean,
    Connection,
    CursorResult,
    Engine,
    Float,
    Integer,
    LargeBinary,
    Select,
    Table,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from tasks.database_urls import without_password
from tasks.errors import StoreError
from tasks.store import schema

HEAD = "0002"  # newest revision in migrations/versions; test_store holds the two together
CHUNK_ROWS = 8192  # while the driver holds them, rows take ten times the memory of the frame they become
BUSY_TIMEOUT_SECONDS = 60
URL_REMEDY = "Set storage.database to null or postgresql+psycopg://user:password@host/name."
REMEDY = "Is the server up, the disk writable and not full?"


@dataclass(frozen=True)
class Store:
    """An open database at the newest schema version."""

    engine: Engine
    shown_url: str

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write: all of it is kept, or nothing.

        Raises:
            StoreError: the database went away, is full or stayed locked; nothing of it is kept.
        """
        with self._named(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection for one query that waits for no writer and holds none up."""
        options = {"isolation_level": "AUTOCOMMIT"} if self.is_sqlite else {}
        with self._named(), self.engine.connect() as connection:
            yield connection.execution_options(**options)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError, self.engine.dialect.loaded_dbapi.OperationalError) as error:
            raise StoreError(self.shown_url, _reason(error), REMEDY, transient=True) from error

    def append(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> int:
        """Append rows in batches within one transaction; returns how many."""
        count = 0
        batch: list[Mapping[str, Any]] = []
        with self.begin() as connection:
            for row in rows:
                batch.append(row)
                if len(batch) == CHUNK_ROWS:
                    connection.execute(insert(table), batch)
                    count, batch = count + len(batch), []
            if batch:
                connection.execute(insert(table), batch)
        return count + len(batch)

    def read(self, query: Select[Any]) -> pl.DataFrame:
        """The rows of a query as one frame, its dtypes taken from the columns' SQL types."""
        frames = list(self.stream(query))
        return pl.concat(frames) if frames else pl.DataFrame(schema=_dtypes(query))

    def stream(self, query: Select[Any], rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """The rows of a query, `rows` at a time, so that no more than one batch is held."""
        dtypes = _dtypes(query)
        loose = {
            name: (pl.Int64 if dtype == pl.Boolean and self.is_sqlite else dtype)
            for name, dtype in dtypes.items()
        }
        # PostgreSQL's driver would otherwise fetch the whole result before it hands out the first row.
        streamed = query.execution_options(stream_results=not self.is_sqlite)
        with self._reading() as connection, connection.execute(streamed) as result:
            for chunk in self._chunks(result, rows):
                yield pl.DataFrame(chunk, schema=loose, orient="row").cast(
                    {k: v for k, v in dtypes.items() if loose[k] != v}
                )

    def _chunks(self, result: CursorResult[Any], rows: int) -> Iterator[Sequence[Any]]:
        if self.is_sqlite:
            # The driver's own cursor: building a SQLAlchemy Row for each of a million rows doubles the time.
            # (Not for PostgreSQL: of a streamed result SQLAlchemy has already taken the first rows.)
            cursor = result.cursor
            while cursor is not None and (chunk := cursor.fetchmany(rows)):
                yield chunk
        else:
            yield from ([tuple(row) for row in chunk] for chunk in result.partitions(rows))

    def scalar(self, query: Select[Any]) -> Any:
        """The first column of the first row, or None."""
        with self._reading() as connection:
            return connection.execute(query).scalar()

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is the embedded one."""
        return self.engine.dialect.name == "sqlite"

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()


def _dtypes(query: Select[Any]) -> dict[str, Any]:
    kinds: Sequence[tuple[type, Any]] = (
        (Boolean, pl.Boolean),
        (Integer, pl.Int64),
        (Float, pl.Float64),
        (LargeBinary, pl.Binary),
    )
    return {
        column.name: next((dtype for kind, dtype in kinds if isinstance(column.type, kind)), pl.String)
        for column in query.selected_columns
    }


def open_store(url: str, project: str) -> Store:
    """Open (and create or migrate, if need be) the database of a project.

    Raises:
        StoreError: unreachable, unwritable, or written by a newer version of the flywheel.
    """
    try:
        parsed = make_url(url)
        shown = without_password(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise StoreError(shown, "is neither SQLite nor PostgreSQL", URL_REMEDY)
        parsed.get_dialect().import_dbapi()
    except (ArgumentError, ValueError):
        # Neither shown nor chained: a password may be among the words of an unreadable URL.
        raise StoreError("storage.database", "is not a database URL", URL_REMEDY) from None
    except ImportError as error:
        raise StoreError(shown, _reason(error), URL_REMEDY) from error
    try:
        engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed, project)
        try:
            _create_schema(engine, project)
            _migrate(engine, shown)
        except BaseException:
            engine.dispose()
            raise
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StoreError(shown, _reason(error), REMEDY, transient=True) from error
    return Store(engine, shown)


def _reason(error: BaseException) -> str:
    """The first line of what the driver said."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy's begin event below says BEGIN, not the driver
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "PRAGMA synchronous=FULL"
        )  # a committed reply survives a power cut, not only a kill
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE: a transaction that reads and then writes would otherwise fail at once when another one
        # wrote in between, without waiting for the busy timeout. Reads ask for autocommit and skip this.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql(url: URL, project: str) -> Engine:
    engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})

    @event.listens_for(engine, "connect")
    def _search_path(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET search_path TO {_quoted(project)}")
        connection.commit()

    return engine


def _quoted(project: str) -> str:
    return '"' + project.replace('"', "") + '"'


def _create_schema(engine: Engine, project: str) -> None:
    if engine.dialect.name != "postgresql":
        return
    there = text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
    with engine.begin() as connection:
        _one_at_a_time(connection)
        if connection.scalar(there, {"name": project.replace('"', "")}) is None:
            connection.execute(text(f"CREATE SCHEMA {_quoted(project)}"))


def _migrate(engine: Engine, shown: str) -> None:
    current = _version(engine)
    if current == HEAD:
        return
    # Alembic costs a third of a second to import, so only a database that needs it pays.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    try:
        with engine.begin() as connection:
            _one_at_a_time(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            shown, f"has schema {current!r}, unknown here", "A newer flywheel wrote it: upgrade this one."
        ) from error


def _one_at_a_time(connection: Connection) -> None:
    """Two first runs at once must not both create the schema and its tables (SQLite's BEGIN sees to it)."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(7203641)"))


def _version(engine: Engine) -> str | None:
    try:
        with engine.connect() as connection:
            found = (
                connection.execution_options(isolation_level="AUTOCOMMIT")
                if engine.dialect.name == "sqlite"
                else connection
            )
            return found.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except SQLAlchemyError as error:
        if "alembic_version" in str(error):
            return None
        raise


def get_meta(store: Store, name: str, default: str) -> str:
    """A stored setting; `default` is written and returned when there is none yet (two writers agree)."""
    query = select(schema.meta.c.value).where(schema.meta.c.name == name)
    found = store.scalar(query)
    if found is not None:
        return str(found)
    try:
        store.append(schema.meta, [{"name": name, "value": default}])
    except IntegrityError:
        return str(store.scalar(query))  # another writer was first
    return default
