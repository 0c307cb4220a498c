"""The databases of the two servers where they are PostgreSQL instead of files: their URLs, checked, and a lock.

A password stands in a URL, so they come from the environment and are shown without it. Projects' own databases are
none of its business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.database_urls import without_password
from tasks.errors import ConfigError
from tasks.project import TRACKING_URI, with_driver

if TYPE_CHECKING:
    import psycopg

PREFECT_DATABASE = "FLYWHEEL_PREFECT_DATABASE_URL"
LOCK = 7203642  # of advisory locks; the number itself means nothing
CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Databases:
    """URLs of PostgreSQL databases as they were given; None is a file under the home."""

    prefect: str | None = None
    mlflow: str | None = None

    @property
    def for_prefect(self) -> str | None:
        """With the driver that Prefect's server uses, and that driver's word for TLS."""
        return self.prefect and with_driver(self.prefect, "asyncpg").replace("sslmode=", "ssl=")

    @property
    def shown(self) -> str | None:
        """Both without their passwords; None if both are files."""
        named = (("Prefect", self.prefect), ("MLflow", self.mlflow))
        return ", ".join(f"{name} {without_password(url)}" for name, url in named if url) or None


def databases_of(environment: Mapping[str, str]) -> Databases:
    """What the environment names.

    Raises:
        ConfigError: no URL of PostgreSQL, or both servers are to share one database.
    """
    prefect, tracking = environment.get(PREFECT_DATABASE) or None, environment.get(TRACKING_URI, "")
    found = Databases(prefect, tracking if tracking.startswith("postgres") else None)
    named = ((PREFECT_DATABASE, found.prefect), (TRACKING_URI, found.mlflow))
    places = [_place(name, url) for name, url in named if url is not None]
    if len(places) == 2 and places[0] == places[1]:
        problem = f"{PREFECT_DATABASE} and {TRACKING_URI} name the same database"
        remedy = "Give each its own (CREATE DATABASE mlflow): both keep tables of the same names."
        raise ConfigError("environment", problem, remedy)
    return found


class DatabaseLock:
    """That one stack works on Prefect's database: an advisory lock, gone with its connection; without a URL, none."""

    def __init__(self, url: str | None) -> None:
        self.url, self._connection = url, None if url is None else _locked(url)

    def holds(self) -> bool:
        """Whether it is held; one whose connection broke is taken anew. False while the database is away.

        Raises:
            ConfigError: another stack was faster.
        """
        if self.url is None:
            return True
        import psycopg

        if self._connection is not None:
            try:
                self._connection.execute("SELECT 1")
                return True
            except psycopg.Error:
                self.release()
        try:
            self._connection = _locked(self.url)
        except psycopg.OperationalError:
            return False
        return True

    def release(self) -> None:
        """Afterwards another stack may have the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def only_stack_on(url: str | None) -> Iterator[DatabaseLock]:
    """While the block works no other stack works on Prefect's database; None is a file, which the home's lock guards.

    Two would each take the other's jobs for dead, because they look for the processes on their own machine.

    Raises:
        ConfigError: another stack works on it, or it cannot be reached.
    """
    if url is None:
        yield DatabaseLock(None)
        return
    import psycopg

    try:
        lock = DatabaseLock(url)
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[0]
        problem = f"Prefect's database {without_password(url)} cannot be reached ({reason})"
        raise ConfigError("environment", problem, f"Is it up, and {PREFECT_DATABASE} right?") from None
    try:
        yield lock
    finally:
        lock.release()


def _locked(url: str) -> psycopg.Connection:
    import psycopg

    connection = psycopg.connect(
        with_driver(url, None),
        autocommit=True,
        connect_timeout=CONNECT_SECONDS,
        application_name="flywheel up",
        # A server that is gone without a word is noticed after half a minute, not after the two hours of TCP.
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=30_000,
    )
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,)).fetchone()
    if row is None or not row[0]:
        connection.close()
        problem = f"another `flywheel up` works on Prefect's database {without_password(url)}"
        raise ConfigError("environment", problem, f"Stop it, or name another in {PREFECT_DATABASE}.")
    return connection


def _place(name: str, url: str) -> tuple[str | None, int, str | None]:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(with_driver(url, None))
        is_postgresql = parsed.get_backend_name() == "postgresql" and bool(parsed.database)
    except (ArgumentError, ValueError):
        is_postgresql = False
    if not is_postgresql:
        # What was given is not shown: a password may be among the words of an unreadable URL.
        raise ConfigError(
            "environment", f"{name} is no URL of a PostgreSQL database", "postgresql://user:word@host/name"
        )
    return parsed.host, parsed.port or 5432, parsed.database
