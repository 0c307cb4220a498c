"""Reading item tables, gold and labels: every bad row named, every doubtful file refused."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.errors import ConfigError, InputError
from tasks.project import Project, load_project
from tasks.records import image_key, text_key
from tasks.sources import (
    expand,
    iterate_sources,
    label_columns,
    read_gold,
    read_gold_rows,
    read_items,
    read_sql,
    read_table,
    resolve_labels,
)


@pytest.fixture
def project(tiny_project: Callable[..., Path]) -> Project:
    return load_project(tiny_project())


@pytest.fixture
def images(tiny_project: Callable[..., Path]) -> Project:
    return load_project(
        tiny_project(
            task={"modality": "image"},
            source={"items": "pictures", "image": "image", "text": None},
            gold=None,
        )
    )


def picture(format: str = "PNG", size: int = 24) -> bytes:
    image = Image.frombytes("RGB", (size, size), bytes((7 * i) % 256 for i in range(size * size * 3)))
    written = io.BytesIO()
    image.save(written, format)
    return written.getvalue()


def items_of(project: Project, rows: list[dict[str, Any]]) -> Any:
    return read_items(project, pl.DataFrame(rows), Path("items.csv"))


def test_items_have_the_keys_of_their_content(project: Project) -> None:
    """Every good row becomes an item with its normalised text, its key and its 1-based row."""
    read = items_of(project, [{"id": 7, "name": " red  kettle "}, {"id": 8, "name": "hose"}])
    assert read.rejections == ()
    assert read.frame.select("row", "source_id", "text").rows() == [(1, "7", "red kettle"), (2, "8", "hose")]
    assert read.frame["key"].to_list() == [text_key("red kettle"), text_key("hose")]


def test_rows_without_content_or_id_are_rejected_and_counted(project: Project) -> None:
    """Bad rows are left out with row, id and reason; the good ones stay."""
    read = items_of(
        project,
        [
            {"id": "a", "name": "kettle"},
            {"id": "b", "name": ""},
            {"id": "c", "name": None},
            {"id": "d", "name": " \t\u00a0\x00"},
            {"id": None, "name": "hose"},
            {"id": "", "name": "seeds"},
        ],
    )
    assert read.frame["source_id"].to_list() == ["a"]
    assert [(r.row, r.id, r.reason) for r in read.rejections] == [
        (2, "b", "empty text"),
        (3, "c", "empty text"),
        (4, "d", "empty text"),
        (5, "", "empty id"),
        (6, "", "empty id"),
    ]
    assert {r.file for r in read.rejections} == {"items.csv"}


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["kettle", " kettle", "hose", "", None]))))
def test_every_row_is_read_rejected_or_doubtful(rows: list[tuple[int, str | None]]) -> None:
    """Rows are either kept or rejected, never both nor lost, unless one id stands for two items."""
    project = Project.model_validate(
        {
            "project": "p",
            "task": {"taxonomy": "t"},
            "source": {"items": "i"},
            "teacher": {"model": "m"},
        }
    )
    frame = pl.DataFrame(rows, schema={"id": pl.Int64, "text": pl.String}, orient="row")
    contents: dict[int, set[str]] = {}
    for source_id, text in rows:
        if text:
            contents.setdefault(source_id, set()).add(text.strip())
    if any(len(texts) > 1 for texts in contents.values()):
        with pytest.raises(InputError):
            read_items(project, frame, Path("f"))
        return
    read = read_items(project, frame, Path("f"))
    kept, rejected = read.frame["row"].to_list(), [r.row for r in read.rejections]
    assert sorted(kept + rejected) == list(range(1, len(rows) + 1))


def test_one_id_for_two_items_is_refused(project: Project) -> None:
    """Exit code 2, the file, the id and the rows of the different contents; repeats are not blamed."""
    rows = [
        {"id": "a", "name": "kettle"},
        {"id": "a", "name": " kettle "},
        {"id": "b", "name": "seeds"},
        {"id": "a", "name": "hose"},
    ]
    with pytest.raises(InputError) as caught:
        items_of(project, rows)
    assert caught.value.exit_code == 2
    assert (caught.value.file, caught.value.row) == (Path("items.csv"), 4)
    assert "id 'a' in rows 1, 4" in str(caught.value)
    assert "'b'" not in str(caught.value)


def test_equal_rows_repeat_freely(project: Project) -> None:
    """The same id and content twice, and one content under two ids, are no mistake."""
    rows = [{"id": "a", "name": "kettle"}, {"id": "a", "name": "kettle"}, {"id": "b", "name": "kettle"}]
    assert items_of(project, rows).frame.height == 3


@pytest.mark.parametrize("missing", ["id", "name"])
def test_a_missing_column_is_refused(project: Project, missing: str) -> None:
    """The missing column and those there are named."""
    row = {"id": "a", "name": "kettle", "colour": "red"}
    del row[missing]
    with pytest.raises(InputError, match=f"column '{missing}' is missing.*colour"):
        items_of(project, [row])


def test_ids_that_are_no_text_are_refused(project: Project) -> None:
    """A column of raw bytes cannot name items, and is refused as such."""
    with pytest.raises(InputError, match="ids in column 'id' cannot be read as text"):
        items_of(project, [{"id": b"\xff\xfe", "name": "kettle"}])


def test_without_ids_the_content_names_the_item(project: Project) -> None:
    """A table without an id column is read where the project names none: the key is the id, repeats are one."""
    nameless = project.model_copy(update={"source": project.source.model_copy(update={"id": None})})
    read = read_items(nameless, pl.DataFrame({"name": ["kettle", "hose", "kettle "]}), Path("items.csv"))
    assert read.frame["source_id"].to_list() == [key.hex() for key in read.frame["key"].to_list()]
    assert read.frame["source_id"].n_unique() == 2


def test_tables_of_three_kinds_read_alike(project: Project, tmp_path: Path) -> None:
    """Parquet, CSV (with a byte-order mark) and JSONL give the same items; ids keep their zeros."""
    frame = pl.DataFrame({"id": ["007", "8"], "name": ["kettle", "hose, green"]})
    frame.write_parquet(tmp_path / "i.parquet")
    frame.write_csv(tmp_path / "i.csv", include_bom=True)
    frame.write_ndjson(tmp_path / "i.jsonl")
    read = [
        read_items(project, read_table(tmp_path / name), tmp_path / name).frame
        for name in ("i.parquet", "i.csv", "i.jsonl")
    ]
    assert read[0]["source_id"].to_list() == ["007", "8"]
    assert read[0].equals(read[1])
    assert read[0].equals(read[2])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("header.csv", b"id,name\n"),
        ("latin.csv", b"id,name\n1,caf\xe9\n"),
        ("empty.parquet", b""),
        ("garbage.parquet", b"PAR1 this is not parquet PAR1"),
        ("noise.parquet", bytes(range(256)) * 8),
        ("empty.jsonl", b""),
        ("garbage.jsonl", b"{ this is not json\n"),
        ("list.jsonl", b"[1, 2\n"),
    ],
)
def test_a_broken_or_empty_table_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """Exit code 2 and the file's name, in one line."""
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_table(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_parquet_is_refused(project: Project, tmp_path: Path, kept: float) -> None:
    """A download that stopped half-way is an input error."""
    content = project.resolve("items.parquet").read_bytes()
    file = tmp_path / "cut.parquet"
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match="cannot be read"):
        read_table(file)


def test_a_table_without_the_wanted_columns_is_refused(project: Project) -> None:
    """The first missing column is named with those there."""
    with pytest.raises(InputError, match=r"column 'sku' is missing.*id, name"):
        read_table(project.resolve("items.parquet"), ["id", "sku"])
    with pytest.raises(InputError, match="no such file"):
        read_table(project.resolve("absent.parquet"))


def test_a_source_is_a_file_a_glob_or_nothing(project: Project, tmp_path: Path) -> None:
    """Globs are sorted; nothing there and unknown suffixes are configuration errors."""
    folder = tmp_path / "data [1]"
    folder.mkdir()
    for name in ("b.csv", "a.csv", "notes.txt"):
        (folder / name).write_text("id,name\n1,kettle\n")
    assert expand("*.csv", folder) == [folder / "a.csv", folder / "b.csv"]
    assert expand("data [1]/a.csv", tmp_path) == [folder / "a.csv"]
    assert expand(str(folder / "a.csv"), Path("/")) == [folder / "a.csv"]
    with pytest.raises(ConfigError, match="no such file"):
        expand("*.parquet", folder)
    with pytest.raises(ConfigError, match=r"\.txt suffix"):
        expand("notes.txt", folder)
    tables = list(iterate_sources(project, "items.parquet", None))
    assert [(file.name, frame.height) for file, frame in tables] == [("items.parquet", 60)]


def test_a_database_is_a_source(project: Project, tmp_path: Path) -> None:
    """A URL with a query reads rows; without one, or where it fails, the error says which setting."""
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE goods (id INTEGER, name TEXT)")
        connection.execute("INSERT INTO goods VALUES (1, 'kettle'), (2, 'hose')")
    connection.close()
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    ((_, frame),) = iterate_sources(project, url, "SELECT id, name FROM goods ORDER BY id")
    assert frame.rows() == [(1, "kettle"), (2, "hose")]
    with pytest.raises(ConfigError, match=r"source\.query"):
        list(iterate_sources(project, url, None))
    with pytest.raises(InputError, match="no such table"):
        read_sql(url, "SELECT 1 FROM bads")


@pytest.mark.parametrize(
    "url", ["nonsense://u:a-secret-word@h/x", "s3://bucket", "://", "postgresql+absent://h/x"]
)
def test_a_database_that_cannot_be_reached_is_an_input_error(url: str) -> None:
    """An address no driver knows is explained, its password left out."""
    with pytest.raises(InputError) as caught:
        read_sql(url, "SELECT 1")
    assert "source.items" in str(caught.value)
    assert "a-secret-word" not in str(caught.value)


def test_postgresql_is_a_source(project: Project, postgresql_url: str) -> None:
    """UUIDs serve as ids, and an unreachable server is an input error without its password."""
    query = "SELECT '6a9e61a3-a2d6-ba9e-dffe-6f34bbcadf25'::uuid AS id, 'kettle' AS name"
    read = read_items(project, read_sql(postgresql_url, query), Path("query"))
    assert read.frame["source_id"].to_list() == ["6a9e61a3-a2d6-ba9e-dffe-6f34bbcadf25"]
    for url in ("u:a-secret-word@127.0.0.1:1/x", "u@127.0.0.1:1/x?password=a-secret-word"):
        with pytest.raises(InputError) as caught:
            read_sql(f"postgresql+psycopg://{url}", "SELECT 1")
        assert "127.0.0.1:1" in str(caught.value)
        assert "a-secret-word" not in str(caught.value)


def test_images_are_bytes_or_paths(images: Project, tmp_path: Path) -> None:
    """Bytes are kept, a path stays a path, and the same picture has one key either way."""
    content = picture()
    (tmp_path / "k.png").write_bytes(content)
    frame = pl.DataFrame({"id": ["a", "b"], "image": [content, content]})
    kept = read_items(images, frame, tmp_path / "t.parquet").frame
    assert kept["image"].to_list() == [content, content]
    named = read_items(images, pl.DataFrame({"id": ["a"], "image": ["k.png"]}), tmp_path / "t.csv").frame
    assert named.select("text", "image").row(0) == (str(tmp_path / "k.png"), None)
    assert {*kept["key"], *named["key"]} == {image_key(content)}


def test_a_folder_of_images_is_a_source(images: Project, tmp_path: Path) -> None:
    """Every picture below the folder is an item named by its path; other files are passed over."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(picture())
    (folder / "sub" / "b.JPG").write_bytes(picture("JPEG"))
    (folder / "readme.txt").write_text("no picture")
    read = read_items(images, read_table(folder), folder)
    assert read.frame["source_id"].to_list() == ["a.png", "sub/b.JPG"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="has no images"):
        read_table(tmp_path / "none")


def test_unreadable_images_are_rejected_with_their_row(images: Project, tmp_path: Path) -> None:
    """Noise, a text, a missing file, a folder and nothing at all are each rejected with a reason."""
    (tmp_path / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "good.png").write_bytes(picture())
    names = ["noise.png", "text.jpg", "absent.png", "folder.png", "", None, "good.png"]
    frame = pl.DataFrame({"id": list("abcdefg"), "image": names})
    read = read_items(images, frame, tmp_path / "t.csv")
    assert read.frame["source_id"].to_list() == ["g"]
    assert [r.row for r in read.rejections] == [1, 2, 3, 4, 5, 6]
    reasons = [r.reason for r in read.rejections]
    assert reasons[0].startswith("unreadable image")
    assert reasons[1].startswith("unreadable image")
    assert reasons[2:4] == ["no such image file: absent.png", "no such image file: folder.png"]
    assert reasons[4:] == ["no image", "no image"]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_damaged_images_never_stop_a_run(images: Project, format: str) -> None:
    """A picture cut anywhere, or with any byte changed, is read or rejected, never an exception."""
    whole = picture(format)
    cut = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 60))]
    changed = [
        whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        for place in range(0, len(whole), max(1, len(whole) // 120))
    ]
    frame = pl.DataFrame(
        {"id": [str(i) for i in range(len(cut) + len(changed) + 1)], "image": [whole, *cut, *changed]}
    )
    read = read_items(images, frame, Path("t.parquet"))
    assert read.frame["source_id"][0] == "0"
    assert read.frame.height + len(read.rejections) == frame.height
    rejected = {r.row for r in read.rejections}
    assert set(range(2, 2 + len(cut) // 2)) <= rejected


def test_labels_are_columns_or_one_path(project: Project) -> None:
    """One column a level, a joined path and a unique bare leaf all mean the leaf; others mean none."""
    taxonomy = project.taxonomy
    levels = pl.DataFrame({"department": ["Kitchen", "Garden"], "category": ["kettles ", "Knives"]})
    assert label_columns(levels, taxonomy, Path("f")) == ["department", "category"]
    assert resolve_labels(levels, ["department", "category"], taxonomy) == [
        ("Kitchen > Kettles", "Kitchen > kettles "),
        (None, "Garden > Knives"),
    ]
    one = pl.DataFrame({"label": ["Kitchen>Kettles", "seeds", "Kitchen", None, "none of these"]})
    assert label_columns(one, taxonomy, Path("f")) == ["label"]
    assert [label for label, _ in resolve_labels(one, ["label"], taxonomy)] == [
        "Kitchen > Kettles",
        "Garden > Seeds",
        None,
        None,
        "none of these",
    ]
    with pytest.raises(InputError, match="department, category"):
        label_columns(pl.DataFrame({"department": ["Kitchen"]}), taxonomy, Path("f"))


def test_gold_is_read_with_its_labels(project: Project) -> None:
    """The tiny project's thirty gold items, each with a leaf."""
    gold = read_gold(project)
    assert gold.columns == ["key", "source_id", "text", "image", "label"]
    assert gold.height == gold["key"].n_unique() == 30
    assert set(gold["label"]) <= set(project.taxonomy.leaves)


def test_gold_rows_that_are_none_are_counted(project: Project) -> None:
    """Without a text or an id: the others are gold all the same."""
    file = project.resolve("gold.parquet")
    rows = {"id": ["a", "b", "", "d"], "name": ["kettle", " ", "hose", None], "label": ["Kettles"] * 4}
    pl.DataFrame(rows).write_parquet(file)
    gold = read_gold_rows(project)
    assert gold.frame["source_id"].to_list() == ["a"]
    assert gold.rejected == {"empty text": 2, "empty id": 1}
    assert [rejection.row for rejection in gold.rejections] == [2, 3, 4]


def test_gold_is_optional(tiny_project: Callable[..., Path]) -> None:
    """A project without gold has an empty frame of the same columns."""
    assert read_gold(load_project(tiny_project(gold=None))).schema["label"] == pl.String


def test_an_unknown_gold_label_names_file_and_row(project: Project) -> None:
    """The row counts from the file's first, rejected rows included, and the nearest label is offered."""
    file = project.resolve("gold.parquet")
    pl.DataFrame(
        {
            "id": ["a", "b", "c"],
            "name": ["", "kettle", "hose"],
            "department": ["Kitchen", "Kitchen", "Garden"],
            "category": ["Kettles", "Kettles", "Hosses"],
        }
    ).write_parquet(file)
    with pytest.raises(InputError) as caught:
        read_gold(project)
    assert (caught.value.file, caught.value.row, caught.value.exit_code) == (file, 3, 2)
    assert "'Garden > Hosses'" in str(caught.value)
    assert "Did you mean 'Garden > Hoses'?" in str(caught.value)


def test_gold_must_be_sure(project: Project) -> None:
    """One item with two gold labels is refused at the row that contradicts; agreeing repeats are one item."""
    file = project.resolve("gold.parquet")
    frame = pl.DataFrame(
        {"id": list("abcd"), "name": ["kettle", "hose", "kettle ", "kettle"], "label": ["Kettles"] * 4}
    )
    frame.write_parquet(file)
    assert read_gold(project)["text"].to_list() == ["kettle", "hose"]
    frame.with_columns(label=pl.Series(["Kettles", "Hoses", "Kettles", "Knives"])).write_parquet(file)
    with pytest.raises(InputError, match="two different gold labels") as caught:
        read_gold(project)
    assert (caught.value.file, caught.value.row) == (file, 4)
