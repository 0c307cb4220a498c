"""The database: opened, migrated, appended to by many, read into frames; SQLite and PostgreSQL alike."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import func, insert, inspect, select, text

from tasks.errors import StoreError
from tasks.records import text_key
from tasks.store import Store, open_store, schema
from tasks.store.database import CHUNK_ROWS, HEAD, get_meta
from tasks.store.items import (
    KnownKeys,
    append_items,
    content_of,
    count_items,
    known_keys,
    note_source,
    read_contents,
    source_unchanged,
)
from tasks.store.synthetic import append_synthetic
from tests.conftest import ROOT, Database

MIGRATIONS = ROOT / "tasks" / "store" / "migrations"


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def label_rows(numbers: range) -> Iterator[dict[str, Any]]:
    for number in numbers:
        yield {"key": key(number), "label": f"l{number % 7}", "source": "single", "run_id": 1, "at": 1.5}


def traffic_row(number: int, **fields: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "request_id": key(number),
        "row_id": key(number),
        "key": key(number),
        "source_id": str(number),
        "tier": "student",
        "would_tier": "student",
        "label": None,
        "confidence": None,
        "audited": False,
        "audit_probability": 0.02,
        "audit_owed": False,
        "latency_seconds": 0.1,
        "cost_usd": 0.0,
        "at": 1.5,
    }
    return row | fields


def item_frame(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "key": [key(hash_ + 1) for hash_ in range(len(texts))],
            "source_id": texts,
            "text": texts,
            "image": [None] * len(texts),
        },
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary},
    )


def other_process(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Python code in a process of its own, talking through its pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_migrations_give_the_tables_of_the_schema(store: Store) -> None:
    """What Alembic builds is what the code declares: nothing to add, to drop or to change."""
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == HEAD


def test_the_newest_migration_is_the_one_the_code_expects() -> None:
    """`HEAD` follows the migrations folder, which has one line of descent."""
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [HEAD]


def test_opening_again_changes_nothing(database: Database, store: Store) -> None:
    """A second opening finds the rows of the first."""
    store.append(schema.labels, label_rows(range(3)))
    again = open_store(*database)
    assert again.scalar(select(func.count()).select_from(schema.labels)) == 3
    again.close()


def test_sqlite_is_in_wal_mode(sqlite_store: Store) -> None:
    """Readers never wait for a writer, a commit survives a power cut, references are checked."""
    with sqlite_store.begin() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_reading_does_not_wait_for_a_writer(database: Database, store: Store) -> None:
    """While a transaction is open, frames and scalars are read at once, without its rows."""
    store.append(schema.labels, label_rows(range(2)))
    with store.begin() as connection:
        connection.execute(insert(schema.labels), list(label_rows(range(2, 5))))
        assert store.read(select(schema.labels.c.key)).height == 2
        assert store.scalar(select(func.count()).select_from(schema.labels)) == 2
    assert store.read(select(schema.labels.c.key)).height == 5


def test_a_hundred_thousand_rows_go_in_and_come_out(store: Store) -> None:
    """A large append is counted and comes back in order, in batches, with its dtypes."""
    rows = 100_000
    assert store.append(schema.labels, label_rows(range(rows))) == rows
    columns = schema.labels.c
    frame = store.read(select(columns.id, columns.key, columns.label, columns.at).order_by(columns.id))
    assert frame.schema == {"id": pl.Int64, "key": pl.Binary, "label": pl.String, "at": pl.Float64}
    assert frame["key"].to_list() == [key(number) for number in range(rows)]
    assert frame["id"].is_sorted()
    batches = [batch.height for batch in store.stream(select(columns.key), rows=30_000)]
    assert batches == [30_000, 30_000, 30_000, 10_000]
    assert rows > CHUNK_ROWS


def test_dtypes_come_from_the_columns(store: Store) -> None:
    """Booleans, nulls, floats and bytes are what the schema says, in an empty result too."""
    columns = schema.traffic.c
    query = select(
        columns.key, columns.audited, columns.audit_owed, columns.confidence, columns.policy_id, columns.label
    ).order_by(columns.id)
    expected = {
        "key": pl.Binary,
        "audited": pl.Boolean,
        "audit_owed": pl.Boolean,
        "confidence": pl.Float64,
        "policy_id": pl.Int64,
        "label": pl.String,
    }
    empty = store.read(query)
    assert empty.schema == expected
    assert empty.height == 0
    store.append(schema.traffic, [traffic_row(1, audited=True, label="é > 漢"), traffic_row(2)])
    frame = store.read(query)
    assert frame.schema == expected
    assert frame.rows() == [
        (key(1), True, False, None, None, "é > 漢"),
        (key(2), False, False, None, None, None),
    ]
    labelled = store.read(select(columns.tier.label("who"), func.count().label("n")).group_by(columns.tier))
    assert labelled.rows(named=True) == [{"who": "student", "n": 2}]


def test_nothing_of_a_failed_transaction_is_kept(store: Store) -> None:
    """An error half-way through an append, or inside a transaction, leaves no row behind."""

    def breaking() -> Iterator[dict[str, Any]]:
        yield from label_rows(range(CHUNK_ROWS + 1))
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        store.append(schema.labels, breaking())

    def breaking_transaction() -> None:
        with store.begin() as connection:
            connection.execute(insert(schema.labels), list(label_rows(range(3))))
            raise RuntimeError("the job broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        breaking_transaction()
    assert store.scalar(select(func.count()).select_from(schema.labels)) == 0
    assert store.append(schema.labels, []) == 0


WRITER = """
import sys
from tasks.store import open_store, schema
url, project, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(url, project)
print("ready", flush=True)
sys.stdin.readline()
for batch in range(40):
    numbers = range(first + 50 * batch, first + 50 * (batch + 1))
    rows = [dict(key=n.to_bytes(16, "big"), label="x", source="single", run_id=1, at=0.0) for n in numbers]
    store.append(schema.labels, rows)
print("done", flush=True)
"""


def test_two_processes_writing_at_once_lose_nothing(database: Database, store: Store) -> None:
    """Forty transactions each of two processes, started together, are all there and all different."""
    with (
        other_process(WRITER, *database, "0") as first,
        other_process(WRITER, *database, "1000000") as second,
    ):
        for child in (first, second):
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in (first, second):
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in (first, second):
            assert child.stdout is not None
            assert child.stdout.readline() == "done\n"
    keys = store.read(select(schema.labels.c.key))
    assert keys.height == keys["key"].n_unique() == 4000


OPENER = """
import sys
from tasks.store import open_store
from tasks.store.database import get_meta
print("ready", flush=True)
sys.stdin.readline()
store = open_store(sys.argv[1], sys.argv[2])
print(get_meta(store, "secret", sys.argv[3]), flush=True)
"""


def test_many_first_openings_at_once_agree(database: Database) -> None:
    """Four processes create the same database together: one schema, and one stored setting for all."""
    children = [other_process(OPENER, *database, str(number)) for number in range(4)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate(timeout=60)[0] for child in children]
    assert len(set(said)) == 1
    assert said[0].strip() in {"0", "1", "2", "3"}
    assert [child.returncode for child in children] == [0, 0, 0, 0]


def test_a_setting_is_written_once(store: Store) -> None:
    """The first default stays; later ones are ignored."""
    assert get_meta(store, "audit secret", "one") == "one"
    assert get_meta(store, "audit secret", "two") == "one"


def test_a_database_of_a_newer_version_is_refused(database: Database, store: Store) -> None:
    """An unknown schema version is not touched, and the remedy is to upgrade."""
    with store.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"'9999', unknown here.*upgrade") as caught:
        open_store(*database)
    assert caught.value.exit_code == 1
    with store.begin() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_an_unwritable_place_is_a_store_error(tmp_path: Path) -> None:
    """A file where a folder should be, and a file that is no database, are explained in one line."""
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "garbage.db").write_bytes(b"this is not a database" * 400)
    for url in (f"sqlite:///{tmp_path}/file/flywheel.db", f"sqlite:///{tmp_path}/garbage.db"):
        with pytest.raises(StoreError, match="disk writable") as caught:
            open_store(url, "tiny")
        assert "\n" not in str(caught.value)


def test_a_forbidden_folder_is_a_store_error() -> None:
    """Without the right to write, opening fails with the folder's name."""
    # Not under pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)  # root may write anywhere
        try:
            with pytest.raises(StoreError, match=name):
                open_store(f"sqlite:///{folder}/var/flywheel.db", "tiny")
            with pytest.raises(StoreError, match="unable to open"):
                open_store(f"sqlite:///{folder}/flywheel.db", "tiny")
        finally:
            if root:
                os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:a-secret-word@h/x", "neither SQLite nor PostgreSQL"),
        ("postgresql+absent://u:a-secret-word@h/x", "not a database URL"),
        ("postgresql://u:a-secret-word@h/x", "psycopg2"),
        ("var/flywheel.db", "not a database URL"),
        ("postgresql+psycopg://u:a-secret-word@h:port/x", "not a database URL"),
        ("postgresql+psycopg://u:a-secret-word@127.0.0.1:1/x", "refused"),
    ],
)
def test_an_address_that_cannot_be_used_is_a_store_error(url: str, words: str) -> None:
    """Unknown kinds, missing drivers, unreadable and unreachable addresses; never with the password."""
    with pytest.raises(StoreError, match=words) as caught:
        open_store(url, "tiny")
    assert "a-secret-word" not in str(caught.value)
    assert "a-secret-word" not in repr(caught.value.__cause__)


def test_a_database_that_goes_away_is_a_store_error(sqlite_store: Store, tmp_path: Path) -> None:
    """Writing to and reading from tables that vanished under an open store is a StoreError, not a trace."""
    sqlite_store.append(schema.labels, label_rows(range(1)))
    outside = sqlite3.connect(tmp_path / "flywheel.db")
    outside.execute("DROP TABLE labels")
    outside.close()
    with pytest.raises(StoreError):
        sqlite_store.append(schema.labels, label_rows(range(1)))
    with pytest.raises(StoreError):
        sqlite_store.read(select(schema.labels.c.key))
    with pytest.raises(StoreError):
        sqlite_store.scalar(select(schema.labels.c.key))


def test_a_full_disk_keeps_what_was_there(sqlite_store: Store) -> None:
    """When no page more fits, the append fails as a StoreError and earlier rows stay readable."""
    sqlite_store.append(schema.labels, label_rows(range(10)))
    with sqlite_store.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(StoreError, match="full"):
        sqlite_store.append(schema.labels, label_rows(range(10, 10_000)))
    assert sqlite_store.scalar(select(func.count()).select_from(schema.labels)) == 10


def test_a_lost_connection_is_replaced(postgresql_url: str) -> None:
    """A PostgreSQL connection cut between two transactions is noticed and opened anew."""
    store = open_store(postgresql_url, f"t{uuid.uuid4().hex}")
    store.append(schema.labels, label_rows(range(2)))
    admin = open_store(postgresql_url, f"t{uuid.uuid4().hex}")
    own = store.scalar(select(func.pg_backend_pid()))
    assert admin.scalar(select(func.pg_terminate_backend(own)))
    assert store.append(schema.labels, label_rows(range(2, 4))) == 2
    assert store.read(select(schema.labels.c.key)).height == 4

    def cut_while_writing() -> None:
        with store.begin() as connection:
            connection.execute(insert(schema.labels), list(label_rows(range(4, 6))))
            pid = connection.scalar(select(func.pg_backend_pid()))
            admin.scalar(select(func.pg_terminate_backend(pid)))
            connection.execute(insert(schema.labels), list(label_rows(range(6, 8))))

    with pytest.raises(StoreError):
        cut_while_writing()
    assert store.read(select(schema.labels.c.key)).height == 4
    store.close()
    admin.close()


def test_two_projects_on_one_server_are_strangers(postgresql_url: str) -> None:
    """Each has a schema of its own name: no row of one is seen by the other."""
    names = [f"t{uuid.uuid4().hex}", f"t-{uuid.uuid4().hex}"]
    one, two = (open_store(postgresql_url, name) for name in names)
    one.append(schema.labels, label_rows(range(3)))
    two.append(schema.labels, label_rows(range(5)))
    assert one.read(select(schema.labels.c.key)).height == 3
    assert two.read(select(schema.labels.c.key)).height == 5
    tables = inspect(one.engine)
    for name in names:
        assert set(tables.get_table_names(schema=name)) == {*schema.metadata.tables, "alembic_version"}
    one.close()
    two.close()


def test_the_password_is_never_shown(postgresql_url: str) -> None:
    """A store's printed form and address hide it."""
    store = open_store(postgresql_url, f"t{uuid.uuid4().hex}")
    assert "a-secret-word" not in repr(store)
    assert "***" in store.shown_url
    store.close()


def test_only_new_items_are_appended(store: Store) -> None:
    """Known keys and repeats within a frame are passed over; the first content of a key stays."""
    first = item_frame(["kettle", "hose"])
    assert append_items(store, pl.concat([first, first]), "source", 1) == 2
    assert append_items(store, item_frame(["another kettle", "another hose", "seeds"]), "traffic", 2) == 1
    assert count_items(store) == known_keys(store).height == 3
    contents = read_contents(store)
    assert contents.select("text", "origin").rows() == [
        ("kettle", "source"),
        ("hose", "source"),
        ("seeds", "traffic"),
    ]
    asked = pl.DataFrame({"key": [key(2), key(2), key(99)]}, schema={"key": pl.Binary})
    assert read_contents(store, asked)["text"].to_list() == ["hose"]
    assert append_items(store, item_frame([]), "source", 3) == 0


def test_the_content_of_an_item_is_its_text_or_its_bytes(tmp_path: Path) -> None:
    """Images kept as paths are read from disk, in the frame's order."""
    (tmp_path / "a.png").write_bytes(b"one")
    frame = pl.DataFrame({"text": [str(tmp_path / "a.png"), None], "image": [None, b"two"]})
    assert content_of(frame, "image") == [b"one", b"two"]
    assert content_of(frame.with_columns(text=pl.Series(["k", "h"])), "text") == ["k", "h"]


def test_a_source_read_before_is_known_until_it_changes(store: Store) -> None:
    """Size, time and settings of the newest reading decide; files of many gigabytes count too."""
    assert not source_unchanged(store, "f", 1, 2.5, "s")
    note_source(store, "f", 5_000_000_000, 1700000000.123456, 10, "s")
    assert source_unchanged(store, "f", 5_000_000_000, 1700000000.123456, "s")
    assert not source_unchanged(store, "f", 5_000_000_001, 1700000000.123456, "s")
    assert not source_unchanged(store, "f", 5_000_000_000, 1700000000.223456, "s")
    assert not source_unchanged(store, "f", 5_000_000_000, 1700000000.123456, "t")
    note_source(store, "f", 1, 2.5, 10, "s")
    assert not source_unchanged(store, "f", 5_000_000_000, 1700000000.123456, "s")


@pytest.mark.parametrize("seed", range(3))
def test_items_that_come_in_many_frames_are_there_once(store: Store, seed: int) -> None:
    """Whether they were there before, came in a frame before or twice in one; keys that end in zeros, too."""
    rng = Random(seed)
    drawn = [rng.choice([n, n << 8, n << 64]) for n in rng.choices(range(40), k=90)]
    frames = [
        pl.DataFrame({"key": [key(number) for number in part]}, schema={"key": pl.Binary}).with_columns(
            source_id=pl.int_range(pl.len()).cast(pl.String),
            text=pl.lit("kettle"),
            image=pl.lit(None, pl.Binary),
        )
        for part in (drawn[:20], drawn[20:50], drawn[50:51], [], drawn[51:])
    ]
    before = append_items(store, frames[0], "source", 1)
    known = KnownKeys(store)
    new = [append_items(store, frame, "source", 2, known) for frame in frames[1:]]
    assert (
        before + sum(new) == len(set(drawn)) == store.scalar(select(func.count()).select_from(schema.items))
    )
    assert set(known_keys(store)["key"]) == {key(number) for number in drawn}


def test_a_written_example_that_turns_up_twice_for_real_is_met_once(store: Store) -> None:
    """It counts as new in the frame that brings it first, and is a real item from then on."""
    append_synthetic(store, [("a kettle", "Kitchen")], 1)
    real = pl.DataFrame({"key": [text_key("a kettle")], "source_id": ["7"], "text": ["a kettle"]})
    real = real.with_columns(image=pl.lit(None, pl.Binary))
    known = KnownKeys(store)
    assert [append_items(store, real, "source", 2, known) for _ in range(2)] == [1, 0]
    assert read_contents(store).select("source_id", "origin").rows() == [("7", "source")]
