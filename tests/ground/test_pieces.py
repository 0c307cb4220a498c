"""Tables piece by piece are the tables whole: same rows, same items, same refusals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.pieces import items_in_pieces, read_in_pieces
from tasks.project import Project, load_project
from tasks.sources import read_items, read_table
from tests.conftest import write_tiny_project

TABLE = pl.DataFrame(
    {
        "id": [f"{row:03}" for row in range(11)],
        "name": ["kettle", None, 'a "hose", green', "two\nlines", " ", "=1+1", "é", "knife", "", "polo", "tab\there"],
        "price": [None, *range(10)],
        "day": [date(2024, 1, 1 + row) for row in range(11)],
        "kind": pl.Series(["a", "b"] * 5 + ["a"], dtype=pl.Categorical),
        "raw": [b"\x00\xff"] * 11,
    }
)  # fmt: skip


def written(folder: Path, suffix: str, table: pl.DataFrame = TABLE) -> Path:
    file = folder / f"table{suffix}"
    if suffix == ".parquet":
        table.write_parquet(file, row_group_size=4)
    elif suffix == ".csv":
        table.select(pl.exclude("raw")).write_csv(file)
    else:
        table.select(pl.exclude("raw", "day")).write_ndjson(file)
    return file


@pytest.fixture
def project(tiny_project: Callable[..., Path]) -> Project:
    return load_project(tiny_project())


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("rows", [1, 3, 4, 11, 100])
def test_the_pieces_are_the_table(tmp_path: Path, suffix: str, rows: int) -> None:
    """In order, of the size asked for, with the dtypes of the whole."""
    file = written(tmp_path, suffix)
    pieces = list(read_in_pieces(file, rows=rows))
    assert [piece.height for piece in pieces[:-1]] == [rows] * (len(pieces) - 1)
    assert 0 < pieces[-1].height <= rows
    assert pl.concat(pieces).equals(read_table(file))
    assert pl.concat(pieces).schema == read_table(file).schema


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_only_some_columns(tmp_path: Path, suffix: str) -> None:
    """Those asked for, in that order."""
    file = written(tmp_path, suffix)
    pieces = list(read_in_pieces(file, ["name", "id"], rows=5))
    assert pl.concat(pieces).equals(read_table(file).select("name", "id"))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage\x80\n\xff,\x81\n", None])
def test_a_file_that_cannot_be_read_is_refused_as_when_read_whole(
    tmp_path: Path, suffix: str, content: bytes | None
) -> None:
    """Empty, of another kind, or not there: the same error, with its remedy."""
    file = tmp_path / f"table{suffix}"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError) as whole:
        read_table(file)
    with pytest.raises(InputError) as piecewise:
        list(read_in_pieces(file))
    assert piecewise.value.file == whole.value.file
    assert piecewise.value.remedy == whole.value.remedy


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_table_without_rows_is_refused(tmp_path: Path, suffix: str) -> None:
    """A header alone is no input."""
    file = written(tmp_path, suffix, TABLE.clear())
    with pytest.raises(InputError, match="has no rows"):
        list(read_in_pieces(file))


def test_a_cut_parquet_file_is_refused(tmp_path: Path) -> None:
    """Whose end is missing, or whose middle is not what its end says."""
    file = written(tmp_path, ".parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        list(read_in_pieces(file))
    file.write_bytes(whole[:4] + b"\xff" * 200 + whole[204:])
    with pytest.raises(InputError, match="cannot be read"):
        list(read_in_pieces(file))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_items_are_those_of_the_whole(tmp_path: Path, project: Project, suffix: str) -> None:
    """Keys, ids, row numbers and rejections do not tell where a piece ended."""
    file = written(tmp_path, suffix)
    whole = read_items(project, read_table(file), file)
    pieces = list(items_in_pieces(project, file, rows=3))
    assert len(pieces) == 4
    assert pl.concat([items.frame for items in pieces]).equals(whole.frame)
    assert [rejection for items in pieces for rejection in items.rejections] == list(whole.rejections)
    assert {rejection.row for rejection in whole.rejections} == {2, 5, 9}


def test_without_an_id_column_the_key_is_the_id(tmp_path: Path, tiny_project: Callable[..., Path]) -> None:
    """Neither named nor there."""
    nameless = load_project(tiny_project(source={"id": None}))
    file = written(tmp_path, ".parquet", TABLE.select("name", "price"))
    whole = read_items(nameless, read_table(file), file)
    pieces = [items.frame for items in items_in_pieces(nameless, file, rows=3)]
    assert pl.concat(pieces).equals(whole.frame)
    assert (whole.frame["source_id"] == whole.frame["key"].bin.encode("hex")).all()


@pytest.mark.parametrize("column", ["id", "name"])
def test_a_missing_column_is_refused_with_those_there_are(
    tmp_path: Path, project: Project, column: str
) -> None:
    """The id or the content."""
    file = written(tmp_path, ".parquet", TABLE.drop(column))
    with pytest.raises(InputError, match=rf"column '{column}' is missing.*price"):
        list(items_in_pieces(project, file, rows=3))


@pytest.fixture(scope="module")
def clashing(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One project for all drawn tables."""
    return load_project(write_tiny_project(tmp_path_factory.mktemp("clashing")))


def outcome(work: Callable[[], Any]) -> Any:
    """What it gives, or how it refuses."""
    try:
        return work()
    except InputError as error:
        return str(error), error.row


@settings(max_examples=60)
@given(
    ids=st.lists(st.sampled_from(["a", "b", "c", "d", "e", "", None]), min_size=1, max_size=9),
    names=st.lists(st.sampled_from(["kettle", "kettle ", "hose", "", None]), min_size=9, max_size=9),
    rows=st.integers(1, 9),
)
def test_one_id_for_two_items_is_refused_wherever_they_stand(
    ids: list[str | None], names: list[str | None], rows: int, clashing: Project
) -> None:
    """As reading the whole refuses it, with the same ids and rows, and before a first piece; else the same items."""
    file = clashing.file.parent / "table.parquet"
    pl.DataFrame({"id": ids, "name": names[: len(ids)]}, schema={"id": pl.String, "name": pl.String}).write_parquet(
        file
    )  # fmt: skip
    whole = outcome(lambda: read_items(clashing, read_table(file), file).frame.rows())
    pieces = items_in_pieces(clashing, file, rows)
    first = outcome(lambda: next(pieces).frame.rows())
    if isinstance(whole, tuple):
        assert first == whole
    else:
        assert [*first, *(row for items in pieces for row in items.frame.rows())] == whole


def test_what_a_query_gave_is_read_in_pieces_too(project: Project) -> None:
    """Row numbers, rejections and an id that two pieces use for two items are those of the whole."""
    rows = [{"id": str(n), "name": " " if n in (2, 7) else f"thing {n}"} for n in range(10)]
    whole = read_items(project, pl.DataFrame(rows), Path("query"))
    pieces = list(items_in_pieces(project, Path("query"), 3, pl.DataFrame(rows)))
    assert pl.concat([items.frame for items in pieces]).equals(whole.frame)
    assert [rejection for items in pieces for rejection in items.rejections] == list(whole.rejections)
    assert [rejection.row for rejection in whole.rejections] == [3, 8]
    rows[9]["id"] = "0"
    with pytest.raises(InputError, match="id '0' in rows 1, 10"):
        next(items_in_pieces(project, Path("query"), 3, pl.DataFrame(rows)))


@pytest.mark.parametrize("source_id", ["id", None])
def test_what_cannot_be_read_at_its_end_gives_no_first_piece(
    tmp_path: Path, tiny_project: Callable[..., Path], source_id: str | None
) -> None:
    """So that nothing of it is kept by whoever keeps what comes, ids or no ids."""
    project = load_project(tiny_project(source={"id": source_id}))
    names = pl.DataFrame({"name": [f"kettle {n}" for n in range(50_000)]})
    table = names if source_id is None else names.with_row_index("id")
    file = tmp_path / "items.parquet"
    table.write_parquet(file, compression="uncompressed", row_group_size=1000)
    whole = file.read_bytes()
    late = whole.rindex(b"kettle 49500") - 400
    file.write_bytes(whole[:late] + b"\xff" * 400 + whole[late + 400 :])
    with pytest.raises(InputError, match="cannot be read"):
        next(items_in_pieces(project, file))
