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
    Boolean,
    Connection,
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
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from tasks.errors import StoreError
from tasks.store import schema

HEAD = "0001"  # newest revision in migrations/versions; test_store holds the two together
CHUNK_ROWS = 50_000
BUSY_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Store:
    """An open database at the newest schema version."""

    engine: Engine
    shown_url: str

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write: all of it is kept, or nothing."""
        with self.engine.begin() as connection:
            yield connection

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
        with self.engine.connect() as connection:
            options = {"isolation_level": "AUTOCOMMIT"} if self.is_sqlite else {}
            reading = connection.execution_options(**options)
            # The driver's own cursor: building a SQLAlchemy Row for each of a million rows doubles the time.
            cursor = reading.execute(query).cursor
            while cursor is not None and (chunk := cursor.fetchmany(rows)):
                yield pl.DataFrame(chunk, schema=loose, orient="row").cast(
                    {k: v for k, v in dtypes.items() if loose[k] != v}
                )

    def scalar(self, query: Select[Any]) -> Any:
        """The first column of the first row, or None."""
        with self.engine.connect() as connection:
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
    parsed = make_url(url)
    shown = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(
            shown,
            "is neither SQLite nor PostgreSQL",
            "Set storage.database to null or postgresql+psycopg://...",
        )
    try:
        engine = (
            _sqlite(url, parsed.database)
            if parsed.get_backend_name() == "sqlite"
            else _postgresql(url, project)
        )
        _migrate(engine, shown)
    except (OperationalError, ProgrammingError, sqlite3.Error, OSError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise StoreError(shown, reason, "Is the server up, the disk writable and not full?") from error
    return Store(engine, shown)


def _sqlite(url: str, database: str | None) -> Engine:
    if database and database != ":memory:":
        Path(database).parent.mkdir(parents=True, exist_ok=True)
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


def _postgresql(url: str, project: str) -> Engine:
    engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    name = project.replace('"', "")

    @event.listens_for(engine, "connect")
    def _search_path(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f'SET search_path TO "{name}"')
        connection.commit()

    with engine.begin() as connection:
        if (
            connection.scalar(text("SELECT 1 FROM pg_namespace WHERE nspname = :name"), {"name": name})
            is None
        ):
            connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{name}"'))
    return engine


def _migrate(engine: Engine, shown: str) -> None:
    current = _version(engine)
    if current == HEAD:
        return
    # Alembic costs a third of a second to import, so only a database that needs it pays.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                # Two first runs at once must not both create the tables.
                connection.execute(text("SELECT pg_advisory_xact_lock(7203641)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            shown, f"has schema {current!r}, unknown here", "A newer flywheel wrote it: upgrade this one."
        ) from error


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
    with store.begin() as connection:
        found = connection.scalar(select(schema.meta.c.value).where(schema.meta.c.name == name))
        if found is None:
            connection.execute(insert(schema.meta), {"name": name, "value": default})
            return default
        return str(found)
