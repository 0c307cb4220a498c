"""What every test stands on: a quiet offline environment, no way past loopback, a tiny project, a database.

The environment is set at import, before any test module imports the libraries that read it.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

SESSION_FOLDER = Path(tempfile.mkdtemp(prefix="flywheel-tests-"))
atexit.register(shutil.rmtree, SESSION_FOLDER, ignore_errors=True)

os.environ.update(
    {
        "OMP_NUM_THREADS": "1",  # torch with two threads on two busy cores is ten times slower than with one
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "POLARS_MAX_THREADS": "2",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(SESSION_FOLDER / "prefect"),
        "FLYWHEEL_HOME": str(SESSION_FOLDER / "home"),
        "MPLBACKEND": "Agg",
        "NO_PROXY": "127.0.0.1,localhost",
    }
)
# What a developer's shell may hold and no test may use: real keys, a real server, a real project.
for name in (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "MLFLOW_TRACKING_URI",
    "FLYWHEEL_PROJECT",
    "FLYWHEEL_DATABASE_URL",
    "FLYWHEEL_TRACKING_URI",
    "OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
):
    os.environ.pop(name, None)

import polars as pl  # noqa: E402 - the environment comes first
import pytest  # noqa: E402
import yaml  # noqa: E402
from hypothesis import settings  # noqa: E402

from tasks.store import Store, open_store  # noqa: E402
from tests.postgres import ABSENT, binaries, running_postgres  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

# The same examples in every run, so that a red run is the change's; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


# The longest files first, so that two workers end together; the rest as collected.
LONGEST_FIRST = (
    "test_demo.py",
    "test_readme.py",
    "test_kills.py",
    "test_stack.py",
    "test_schedule.py",
    "test_commands_watch.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file nothing moves."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


class Database(NamedTuple):
    """Where a test's database is, for `open_store(*database)` here or in another process."""

    url: str
    project: str


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test writes under a `FLYWHEEL_HOME` of its own."""
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path / "home"))


_outside: list[str] = []


@pytest.fixture(scope="session", autouse=True)
def _no_way_out() -> Iterator[None]:
    """No connection of the test process leaves this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for method in ("connect", "connect_ex"):
            patch.setattr(socket.socket, method, _guarded(getattr(socket.socket, method)))
        yield


@pytest.fixture(autouse=True)
def _nothing_went_out() -> Iterator[None]:
    """A connection refused by the guard fails the test even where a thread or a library swallowed it."""
    yield
    tried = [*_outside]
    _outside.clear()
    assert not tried, f"the test tried to reach {', '.join(tried)}"


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(str(address[0])):
            _outside.append(f"{address[0]}:{address[1]}")
            self.close()
            pytest.fail(f"no test may reach past loopback, and this one tried {address}")
        return connect(self, address)

    return guarded


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "")


@pytest.fixture
def refused_connections() -> list[str]:
    """What the guard refused so far in this test; a test of the guard empties it."""
    return _outside


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real, temporary Prefect server for the session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield
        _no_events_under_way()


@contextmanager
def on_server(api: str) -> Iterator[None]:
    """Flows that this process runs in the block run on another server than the session's.

    A process sends events over one connection, whichever server is meant: it is closed while its server still stands,
    because whoever waits for events to reach one that has ended waits for ever (Prefect 3.8).
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    _no_events_under_way()
    with temporary_settings({PREFECT_API_URL: api}):
        try:
            yield
        finally:
            _no_events_under_way()


def _no_events_under_way() -> None:
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=60)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A real PostgreSQL server for the session, as a SQLAlchemy URL."""
    if binaries() is None:
        pytest.skip(ABSENT)
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database of either kind, nobody else's."""
    if request.param == "sqlite":
        return Database(f"sqlite:///{tmp_path / 'flywheel.db'}", "tiny")
    return Database(request.getfixturevalue("postgresql_url"), f"t{uuid.uuid4().hex}")


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """An open, empty store of either kind."""
    opened = open_store(*database)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    """An open, empty SQLite store, for what does not depend on the kind."""
    opened = open_store(f"sqlite:///{tmp_path / 'flywheel.db'}", "tiny")
    yield opened
    opened.close()


# Leaf, and the nouns its names are made of: five nouns by two ways of saying them are its ten items.
TINY_LEAVES = {
    ("Kitchen", "Kettles"): ("kettle", "teapot", "water boiler", "samovar", "electric jug"),
    ("Kitchen", "Knives"): ("knife", "cleaver", "peeling blade", "carver", "bread slicer"),
    ("Garden", "Hoses"): ("hose", "sprinkler", "drip pipe", "spray nozzle", "water reel"),
    ("Garden", "Seeds"): ("seeds", "tulip bulbs", "lawn grass", "herb sprouts", "bean pods"),
    ("Clothing", "Shirts"): ("shirt", "blouse", "polo", "flannel top", "tunic"),
    ("Clothing", "Shoes"): ("shoes", "sneakers", "hiking boots", "sandals", "loafers"),
}
TINY_ABOUT = {"Kettles": "to boil water in", "Hoses": "to bring water to plants"}
_BRANDS = ("Alba", "Borealis", "Corvex", "Dunmore", "Estrella", "Fjordline")
_KINDS = ("classic", "compact", "deluxe", "everyday", "premium", "vintage", "outlet")


def _tiny_rows(rounds: range) -> list[dict[str, str]]:
    """Rows of id, name, department, category: one for each leaf, noun and round; no two names alike."""
    rows = []
    for place, ((department, category), nouns) in enumerate(TINY_LEAVES.items()):
        for index, noun in enumerate(nouns):
            for turn in rounds:
                brand = _BRANDS[(place + index + 2 * turn) % len(_BRANDS)]
                kind = _KINDS[(place + 3 * index + turn) % len(_KINDS)]
                rows.append(
                    {
                        "id": f"{category.lower()}-{index}-{turn}",
                        "name": f"{noun} {kind} {brand}",
                        "department": department,
                        "category": category,
                    }
                )
    return rows


def write_tiny_project(folder: Path, **sections: Any) -> Path:
    """Write a project of 60 items and 30 gold items in two levels to `folder`; returns the YAML's path.

    Beside it stand `taxonomy.yaml`, `items.parquet` (id, name), `gold.parquet` (id, name, department,
    category) and `answers.parquet` (text, a, b), a teacher's two passes over both: `a` is right, `b` is wrong
    for one item in ten. `sections` are laid over the YAML's, nested mappings merged, so that
    `teacher={"base_url": url}` changes only that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items, gold = _tiny_rows(range(2)), _tiny_rows(range(2, 3))
    tree: dict[str, dict[str, str | None]] = {}
    for department, category in TINY_LEAVES:
        tree.setdefault(department, {})[category] = TINY_ABOUT.get(category)
    (folder / "taxonomy.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    pl.DataFrame(items).select("id", "name").write_parquet(folder / "items.parquet")
    pl.DataFrame(gold).write_parquet(folder / "gold.parquet")
    leaves = [" > ".join(leaf) for leaf in TINY_LEAVES]
    right = [f"{row['department']} > {row['category']}" for row in [*items, *gold]]
    wrong_now_and_then = [
        leaves[(leaves.index(label) + 1) % len(leaves)] if row % 10 == 3 else label
        for row, label in enumerate(right)
    ]
    pl.DataFrame(
        {"text": [row["name"] for row in [*items, *gold]], "a": right, "b": wrong_now_and_then}
    ).write_parquet(folder / "answers.parquet")
    settings: dict[str, Any] = {
        "project": "tiny",
        "task": {
            "modality": "text",
            "levels": ["department", "category"],
            "taxonomy": "taxonomy.yaml",
            "instructions": "Classify the product by its name.",
        },
        "source": {"items": "items.parquet", "id": "id", "text": "name"},
        "gold": "gold.parquet",
        "teacher": {
            "base_url": "http://127.0.0.1:9/v1",
            "model": "tiny-teacher",
            "price": {"input": 0.3, "cached_input": 0.03, "output": 2.5},
            "passes": 2,
            "concurrency": 8,
        },
        "encoder": {"model": "hash:64"},
        "student": {"candidates": ["linear"]},
    }
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(_laid_over(settings, sections), sort_keys=False))
    return file


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    return below | {
        key: _laid_over(below[key], value)
        if isinstance(value, dict) and isinstance(below.get(key), dict)
        else value
        for key, value in above.items()
    }


@pytest.fixture
def tiny_project(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_project(folder=None, **sections)` writes a tiny project and returns the YAML's path."""

    def write(folder: Path | None = None, **sections: Any) -> Path:
        return write_tiny_project(folder or tmp_path / "conf", **sections)

    return write
