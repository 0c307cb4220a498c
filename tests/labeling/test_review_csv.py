"""The CSV is safe to open in any spreadsheet, and is read back however a spreadsheet saved it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.labeling.decisions import Decisions, LabelReader
from tasks.labeling.review_csv import COLUMNS, armed, defused, read_review_csv, write_review_csv
from tasks.labeling.review_files import kind_of
from tasks.labeling.review_queue import SHOWN_SCHEMA
from tasks.records import text_key
from tasks.taxonomy import Taxonomy, build_taxonomy
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, taxonomy

ONE, TWO, THREE = (text_key(text) for text in ("one", "two", "three"))
KEYS = {ONE, TWO, THREE}
SIGNS = ["=", "+", "-", "@", "＝", "＋", "－", "＠", "﹦", "﹢", "﹣", "﹫"]
BLANKS = ["", " ", "\t", "\r", "\n", "\x00", "\x1b", "\xa0", "\u200b", "\ufeff", "\u3000", " \t\r\n"]
RUNS = tuple(SIGNS)


def _read(file: Path, tree: Taxonomy | None = None) -> Decisions:
    return read_review_csv(file, LabelReader(tree or taxonomy()), KEYS)


def _defused(cells: list[str]) -> list[str]:
    return pl.DataFrame({"cell": cells}, schema={"cell": pl.String}).select(defused("cell"))["cell"].to_list()


@pytest.mark.parametrize("blank", BLANKS)
def test_whatever_may_run_gets_an_apostrophe(blank: str) -> None:
    """Also behind white space, control characters and marks without width, and in full width."""
    cells = [f"{blank}{sign}cmd|' /C calc'!A0" for sign in SIGNS]
    assert _defused(cells) == ["'" + cell for cell in cells]


@pytest.mark.parametrize("start", ["\t", "\r", "\n"])
def test_a_tab_or_a_line_end_at_the_start_gets_one_too(start: str) -> None:
    assert _defused([start + "plain"]) == ["'" + start + "plain"]


def test_harmless_cells_stay_as_they_are() -> None:
    cells = ["plain", "a=b", "1+1", "O'Neill", "'quoted'", " leading space", "", "ünïcode", "#1", "5 - 3"]
    assert _defused(cells) == cells


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(st.sampled_from([*"'=+-@＝＠ab \t\r\n\u200b", "\ufeff"]), max_size=6), max_size=8))
def test_defusing_is_undone_exactly_and_leaves_nothing_that_runs(cells: list[str]) -> None:
    """Whatever apostrophes a cell had of its own, and whatever it begins with."""
    safe = _defused(cells)
    assert [armed(cell) for cell in safe] == cells
    for cell in safe:
        assert not cell.startswith(("\t", "\r", "\n"))
        assert not cell.lstrip(" \t\r\n\u200b\ufeff").startswith(RUNS)


def _row(key: bytes, text: str, label: str | None, reason: str | None = "why") -> dict[str, object]:
    said = [
        {
            "model": "m",
            "pass": 1,
            "label": label,
            "confidence": 0.9,
            "reason": reason,
            "error_class": "broken",
        },
        {"model": "m", "pass": 2, "label": None, "confidence": None, "reason": None, "error_class": "broken"},
    ]
    return {
        "item_id": 1, "key": key, "why": "passes differ", "student_label": label, "student_confidence": 0.5,
        "current_label": label, "said": said, "source_id": f"@{text}", "text": text,
    }  # fmt: skip


def _queue(*rows: dict[str, object]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SHOWN_SCHEMA)


def _cells(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def test_every_column_is_safe_and_a_copied_label_comes_back_exactly(tmp_path: Path) -> None:
    """Labels that look like formulas: defused in every column, and a reviewer who copies a cell picks that label."""
    names = ["=cmd", "'=cmd", "''=cmd", "＋plus", "@at", "-dash", "'plain"]
    tree = build_taxonomy(dict.fromkeys(names))
    file = tmp_path / "out" / "review.csv"
    rows = [_row(text_key(name), f"\t={name}", name, "=1+1") for name in names]
    size = write_review_csv(file, [_queue(*rows[:3]), _queue(*rows[3:])])
    assert size == file.stat().st_size
    assert file.read_bytes().startswith(b"\xef\xbb\xbfkey,id,text")
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    found = _cells(file)
    assert tuple(found[0]) == COLUMNS
    assert found[0]["candidates"] == "'=cmd | (broken)"
    for row in found:
        assert not [cell for cell in row.values() if cell.lstrip().startswith(RUNS)]
        assert not [cell for cell in row.values() if cell.startswith(("\t", "\r", "\n"))]
        row["final_label"] = row["current_label"]
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS)
        writer.writeheader()
        writer.writerows(found)
    known = {text_key(name) for name in names}
    decided = read_review_csv(file, LabelReader(tree), known)
    assert decided.labels == {text_key(name): name for name in names}
    # A spreadsheet that takes the apostrophe for its own mark of text saves the label without it.
    bare = "\n".join(f"{text_key(name).hex()},{name}" for name in ("=cmd", "＋plus", "@at", "-dash"))
    file.write_text(f"key,final_label\n{bare}\n", encoding="utf-8")
    assert set(read_review_csv(file, LabelReader(tree), known).labels.values()) == {
        "=cmd",
        "＋plus",
        "@at",
        "-dash",
    }


SAVED = (
    'key{s}text{s}final_label\n{one}{s}"two\nlines, ""quoted"""{s}kitchen > KETTLES \n'
    "{two}{s}ünï{s}  hoses\n{three}{s}x{s}\n"
)


@pytest.mark.parametrize(
    ("separator", "encode"),
    [
        pytest.param(",", lambda text: text.encode(), id="plain"),
        pytest.param(
            ";", lambda text: text.encode("utf-8-sig"), id="Excel CSV UTF-8 where the comma is decimal"
        ),
        pytest.param("\t", lambda text: text.encode("utf-16"), id="Excel Unicode text"),
        pytest.param(
            "\t", lambda text: "\ufeff".encode("utf-16-be") + text.encode("utf-16-be"), id="big endian"
        ),
        pytest.param(",", lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"), id="CRLF"),
        pytest.param(",", lambda text: text.replace("\n", "\r").encode(), id="Excel for Mac"),
        pytest.param(";", lambda text: b"sep=;\r\n" + text.encode(), id="with Excel's separator line"),
        pytest.param(",", lambda text: text.replace("key", "KEY ", 1).encode(), id="header retyped"),
        pytest.param(",", lambda text: (text + "\n\n,,\n").encode(), id="blank rows at the end"),
    ],
)
def test_it_is_read_however_it_was_saved(
    tmp_path: Path, separator: str, encode: Callable[[str], bytes]
) -> None:
    """Wrong case, spaces around and a bare leaf are forgiven; quoted line ends stay within their row."""
    file = tmp_path / "review.csv"
    file.write_bytes(encode(SAVED.format(s=separator, one=ONE.hex(), two=TWO.hex(), three=THREE.hex())))
    assert kind_of(file) == "table"
    decided = _read(file)
    assert decided.labels == {ONE: KETTLES, TWO: HOSES}
    assert (decided.rows, decided.empty) == (3, 1)


def test_columns_may_be_reordered_added_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "review.csv"
    file.write_text(
        f'"my\nnotes",final_label,key,\na,Knives,{ONE.hex()},,,\nb,{HOSES},{TWO.hex()}\nonly notes\n',
        encoding="utf-8",
    )
    decided = _read(file)
    assert decided.labels == {ONE: KNIVES, TWO: HOSES}
    assert decided.empty == 1


def test_a_cell_longer_than_the_csv_modules_limit_is_read(tmp_path: Path) -> None:
    file = tmp_path / "review.csv"
    file.write_text(f"key,text,final_label\n{ONE.hex()},{'x' * 200_000},Knives\n")
    assert _read(file).labels == {ONE: KNIVES}


@pytest.mark.parametrize(
    ("lines", "row", "words"),
    [
        (["{one},Kettles", "{two},Ketles"], 2, "unknown label 'Ketles' (did you mean 'Kitchen > Kettles'?)"),
        (
            ["{one},kitchen"],
            1,
            "'kitchen' is not a leaf, choose one below it: 'Kitchen > Kettles', 'Kitchen > Kn",
        ),
        (["{one},Garden > Seeds"], 1, "is not a leaf, choose one below it: 'Garden > Seeds > Flowers'"),
        (["{one},Kettles", "00ff,Kettles"], 2, "unknown key '00ff'"),
        (["{one},Kettles", "1.2E+31,Kettles"], 2, "made a number of it. Export again and copy the column"),
        (["{one},Kettles", '"1,2e31",Kettles'], 2, "made a number of it"),
        (["{one},Kettles", "12345678901234500000000000000000,Kettles"], 2, "made a number of it"),
        (["{one},Kettles", ",Kettles"], 2, "unknown key ''"),
        (["{one},Kettles", "{two},Hoses", "{one},Hoses"], 3, "already decided as 'Kitchen > Kettles'"),
        (["{one}," + "long" * 1000], 1, "longlong..."),
    ],
)
def test_a_wrong_row_is_named_with_its_remedy(tmp_path: Path, lines: list[str], row: int, words: str) -> None:
    file = tmp_path / "review.csv"
    file.write_text("\n".join(["key,final_label", *lines]).format(one=ONE.hex(), two=TWO.hex()))
    with pytest.raises(InputError) as caught:
        _read(file)
    assert caught.value.row == row
    assert words in str(caught.value)
    assert "nothing was imported" in str(caught.value)


def test_a_name_that_several_labels_bear_is_refused_with_all_of_them(tmp_path: Path) -> None:
    tree = build_taxonomy({"Bags": {"Parts": None}, "Bikes": {"parts": None, "Whole": None}})
    file = tmp_path / "review.csv"
    file.write_text(f"key,final_label\n{ONE.hex()},PARTS\n")
    with pytest.raises(
        InputError, match="several labels, write the whole path: 'Bags > Parts', 'Bikes > parts'"
    ):
        _read(file, tree)


def test_all_wrong_rows_are_told_at_once_up_to_twenty(tmp_path: Path) -> None:
    """A reviewer corrects a file once, not once a mistake."""
    file = tmp_path / "review.csv"
    wrong = "\n".join(f"{ONE.hex()},Ketles {place}" for place in range(25))
    file.write_text(f"key,final_label\n{TWO.hex()},Kettles\nzz,Kettles\n{wrong}\n")
    with pytest.raises(InputError) as caught:
        _read(file)
    told = str(caught.value)
    assert caught.value.row is None
    assert "26 rows cannot be taken" in told
    assert "\n  row 2: unknown key 'zz'" in told
    assert "\n  row 21: unknown label 'Ketles 18'" in told
    assert "row 22" not in told
    assert "\n  and 6 more" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"key,label\n00,Kettles\n", "column 'final_label' is missing"),
        (b"key,final_label,Final_Label\n", "column 'final_label' stands there twice"),
        (b"", "column 'key' is missing"),
        (b"annotation_id,annotator,final_label,key\n7,1,Knives,00\n", "Export as JSON or JSON_MIN"),
        (b"PK\x03\x04rest of a workbook", "is a workbook"),
        ("key,final_label\n00,Küche\n".encode("cp1252"), "not in UTF-8"),
        (b'key,final_label\n"never closed', None),
    ],
)
def test_a_file_that_is_no_review_is_named(tmp_path: Path, content: bytes, words: str | None) -> None:
    file = tmp_path / "review.csv"
    file.write_bytes(content)
    if words is None:
        assert _read(file).empty == 1
    else:
        with pytest.raises(InputError, match=words):
            _read(file)


def test_an_absent_file_is_named_and_an_empty_form_decides_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        _read(tmp_path / "absent.csv")
    file = tmp_path / "review.csv"
    write_review_csv(file, [])
    assert _read(file) == Decisions({}, 0, 0)
    assert next(csv.reader(io.StringIO(file.read_text("utf-8-sig")))) == list(COLUMNS)
