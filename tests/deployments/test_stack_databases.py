"""The databases of `flywheel up` by URL, and its clock: what is refused, and what each server is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest
from prefect.server.schemas.schedules import CronSchedule

from deployments.stack.databases import LOCK, PREFECT_DATABASE, Databases, databases_of, only_stack_on
from deployments.stack.parts import claim, environment_of, mlflow_server, prefect_server
from deployments.stack.register import cron_of
from tasks.errors import ConfigError
from tasks.project import TRACKING_URI, load_project, with_driver

PREFECT, MLFLOW = "postgresql://ada:secret@db/prefect", "postgres://ada:secret@db:5432/mlflow"


def test_without_urls_both_are_files() -> None:
    """An MLflow server somewhere else is not a database of this stack either."""
    assert databases_of({}) == databases_of({TRACKING_URI: "http://mlflow:5000"}) == Databases()
    assert Databases().shown is None


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ("postgresql://a:b@h/d", "postgresql+asyncpg://a:b@h/d"),
        ("postgres://a:b@h/d", "postgresql+asyncpg://a:b@h/d"),
        ("postgresql+psycopg://a:b@h/d", "postgresql+asyncpg://a:b@h/d"),
        ("postgresql+asyncpg://a:b@h/d?sslmode=require", "postgresql+asyncpg://a:b@h/d?ssl=require"),
    ],
)
def test_prefect_gets_the_driver_it_needs(written: str, given: str) -> None:
    """Whatever driver the URL names."""
    assert Databases(written).for_prefect == given


def test_each_server_is_given_its_own_and_no_password_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the environment, never on a command line; jobs need MLflow's and are not told Prefect's."""
    monkeypatch.setenv(PREFECT_DATABASE, PREFECT)
    monkeypatch.setenv(TRACKING_URI, MLFLOW)
    addresses = claim("127.0.0.1", 0, 0)
    environment = environment_of(addresses, tmp_path)
    assert PREFECT_DATABASE not in environment
    databases = databases_of({PREFECT_DATABASE: PREFECT, TRACKING_URI: MLFLOW})
    prefect = prefect_server(addresses, environment, tmp_path, databases)
    mlflow = mlflow_server(addresses, environment, tmp_path, databases)
    assert (
        prefect.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
        == "postgresql+asyncpg://ada:secret@db/prefect"
    )
    assert mlflow.environment["MLFLOW_BACKEND_STORE_URI"] == with_driver(MLFLOW, "psycopg")
    assert not [word for part in (prefect, mlflow) for word in part.command if "secret" in word]
    assert (
        databases.shown == "Prefect postgresql://ada:***@db/prefect, MLflow postgres://ada:***@db:5432/mlflow"
    )
    files = mlflow_server(addresses, environment, tmp_path)
    assert files.environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path / 'var' / 'mlflow.db'}"


def test_jobs_track_where_the_server_reads(
    tiny_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project that names no MLflow uses the stack's database, with a driver that is installed."""
    monkeypatch.setenv(TRACKING_URI, MLFLOW)
    assert load_project(tiny_project()).tracking_uri == "postgresql+psycopg://ada:secret@db:5432/mlflow"


@pytest.mark.parametrize("place", ["ada:secret@db/prefect", "ada@db/prefect?sslmode=require&password=secret"])
def test_a_password_is_hidden_wherever_it_stands(place: str) -> None:
    """Drivers read it before the host and behind the question mark."""
    shown = Databases(f"postgresql://{place}").shown
    assert shown is not None
    assert "secret" not in shown
    assert "db/prefect" in shown


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({PREFECT_DATABASE: "sqlite:///secret.db"}, f"{PREFECT_DATABASE} is no URL of a PostgreSQL database"),
        ({PREFECT_DATABASE: "postgresql://ada:secret@db"}, "is no URL of a PostgreSQL database"),
        ({PREFECT_DATABASE: "ada secret"}, "is no URL of a PostgreSQL database"),
        (
            {PREFECT_DATABASE: PREFECT, TRACKING_URI: "postgresql+psycopg://bob:secret@db:5432/prefect"},
            "same",
        ),
    ],
)
def test_urls_that_cannot_work_are_refused_without_their_secret(named: dict[str, str], said: str) -> None:
    """Both keep a table of one name, so they cannot share a database; whose user it is makes no difference."""
    with pytest.raises(ConfigError, match=said) as refused:
        databases_of(named)
    assert "secret" not in str(refused.value)


def test_a_database_that_is_away_is_a_sentence() -> None:
    """It names the address without the password, and the variable to look at."""
    with (
        pytest.raises(ConfigError, match=r"ada:\*\*\*@127.0.0.1:9/d cannot be reached") as refused,
        only_stack_on("postgresql://ada:secret@127.0.0.1:9/d"),
    ):
        pass
    assert PREFECT_DATABASE in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.slow
def test_one_stack_a_database(postgresql_url: str) -> None:
    """A second one is refused while the first works, whatever driver its URL names, and let in when that has ended."""
    with (
        only_stack_on(postgresql_url),
        pytest.raises(ConfigError, match="another `flywheel up` works on"),
        only_stack_on(with_driver(postgresql_url, "asyncpg")),
    ):
        pass
    with only_stack_on(postgresql_url), only_stack_on(None):
        pass


@pytest.mark.slow
def test_a_lock_whose_connection_broke_is_taken_anew_or_lost(postgresql_url: str) -> None:
    """As after a restart of the database: who looks first has it, and whoever comes later is told."""
    another = pytest.raises(ConfigError, match="another `flywheel up` works on")
    with only_stack_on(postgresql_url) as lock:
        assert lock.holds()
        broken(postgresql_url)
        assert lock.holds()
        with another, only_stack_on(postgresql_url):
            pass
        broken(postgresql_url)
        with only_stack_on(postgresql_url), another:
            lock.holds()
        assert lock.holds(), "the other one has ended"
    with only_stack_on(postgresql_url):
        pass


def broken(url: str) -> None:
    """End every connection that holds a lock."""
    with psycopg.connect(with_driver(url, None)) as connection:
        query = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flywheel up'"
        )
        assert connection.execute(query).fetchall() == [(True,)]
        while connection.execute(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = %s", (LOCK,)
        ).fetchall():
            pass


@pytest.mark.parametrize(
    ("cron", "zone", "from_day"),
    [
        ("30 2 * * *", "Europe/Berlin", date(2027, 3, 26)),  # 02:30 does not exist on the 28th
        ("30 2 * * *", "Europe/Berlin", date(2026, 10, 23)),  # 02:30 comes twice on the 25th
        ("0 2 * * *", "America/New_York", date(2027, 3, 12)),
        ("30 1 * * *", "America/New_York", date(2026, 10, 30)),
        ("30 2 * * *", "UTC", date(2027, 3, 26)),
    ],
)
def test_a_night_in_which_the_clock_changes_has_one_run(
    tiny_project: Callable[..., Path], cron: str, zone: str, from_day: date
) -> None:
    """As the server reckons, which asks time and again and keeps one run a moment: one a night, an hour off at most."""
    ours = cron_of(load_project(tiny_project(schedule={"nightly": cron, "timezone": zone})))
    assert ours is not None
    at, here = CronSchedule(cron=ours.cron, timezone=ours.timezone), ZoneInfo(zone)
    start = datetime(from_day.year, from_day.month, from_day.day, tzinfo=here).astimezone(UTC)
    moments = {
        run.timestamp()
        for minutes in range(0, 5 * 24 * 60, 20)
        for run in asyncio.run(at.get_dates(2, start + timedelta(minutes=minutes)))
    }
    runs = sorted(datetime.fromtimestamp(moment, here) for moment in moments)
    assert [run.date() for run in runs] == [from_day + timedelta(days=day) for day in range(len(runs))]
    minute, hour = (int(word) for word in cron.split()[:2])
    odd = [run for run in runs if (run.hour, run.minute) != (hour, minute)]
    assert len(odd) <= 1
    assert all(run.minute == minute and abs(run.hour - hour) == 1 for run in odd)
