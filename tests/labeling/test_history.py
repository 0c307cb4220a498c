"""Labels paid for long ago are taken over once, and what cannot be used is kept with its reason."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import polars as pl
import pytest

from tasks.errors import InputError
from tasks.labeling.history import import_labels
from tasks.records import text_key
from tasks.store import Store
from tasks.store.items import read_contents
from tasks.store.labels import disputed_keys, effective_labels, raw_labels
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, taxonomy

ROWS = [
    {"id": "7", "text": "a  kettle", "label": "kettles"},
    {"id": "8", "text": "a knife", "label": KNIVES},
    {"id": "9", "text": "a toaster", "label": "Toasters"},
    {"id": "10", "text": " ", "label": KNIVES},
    {"id": "11", "text": "a thing", "label": ""},
]


def _write(frame: pl.DataFrame, file: Path) -> Path:
    if file.suffix == ".parquet":
        frame.write_parquet(file)
    elif file.suffix == ".csv":
        frame.write_csv(file)
    else:
        frame.write_ndjson(file)
    return file


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_table_is_imported_once(store: Store, tmp_path: Path, suffix: str) -> None:
    file = _write(pl.DataFrame(ROWS), tmp_path / f"history{suffix}")
    rejected = tmp_path / "rejected" / "history.csv"
    done = import_labels(store, file, taxonomy(), 1, rejected)
    assert (done.rows, done.items, done.labels, done.known) == (5, 2, 2, 0)
    assert done.rejected == {"unknown label": 1, "empty text": 1, "empty label": 1}
    assert done.rejected_file == str(rejected)
    with rejected.open(encoding="utf-8") as opened:
        kept = [(row["row"], row["reason"], row["label"]) for row in csv.DictReader(opened)]
    assert kept == [("3", "unknown label", "Toasters"), ("4", "empty text", KNIVES), ("5", "empty label", "")]
    items = read_contents(store)
    assert items.select("source_id", "text", "origin").rows() == [
        ("7", "a kettle", "import"),
        ("8", "a knife", "import"),
    ]
    labels = effective_labels(store)
    assert dict(labels.select("key", "label").iter_rows()) == {
        text_key("a kettle"): KETTLES,
        text_key("a knife"): KNIVES,
    }
    assert set(labels["source"]) == {"imported"}
    again = import_labels(store, file, taxonomy(), 2, rejected)
    assert (again.items, again.labels, again.known) == (0, 0, 2)
    assert raw_labels(store).height == 2


def test_conflicts_take_the_majority_and_ties_go_to_review(sqlite_store: Store, tmp_path: Path) -> None:
    said = [("a", KETTLES), ("a", KETTLES), ("a", KNIVES), ("b", KETTLES), ("b", HOSES)]
    file = _write(pl.DataFrame(said, schema=["input", "output"], orient="row"), tmp_path / "h.csv")
    for expected in (5, 0):
        done = import_labels(sqlite_store, file, taxonomy(), 1, tmp_path / "rejected.csv")
        assert (done.labels, done.conflicting) == (expected, 2)
    assert effective_labels(sqlite_store).select("key", "label").rows() == [(text_key("a"), KETTLES)]
    assert disputed_keys(sqlite_store)["key"].to_list() == [text_key("b")]
    assert not (tmp_path / "rejected.csv").exists()


def test_a_column_a_level_or_named_columns(sqlite_store: Store, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "name": ["a", "b"],
            "l1": ["Kitchen", "Garden"],
            "l2": ["Knives", "Seeds"],
            "l3": [None, "Flowers"],
            "what": ["c", "d"],
            "guess": [json.dumps({"label": "Hoses"}), "Kettles"],
        }
    )
    file = _write(frame, tmp_path / "h.parquet")
    rejected = tmp_path / "rejected.csv"
    assert import_labels(sqlite_store, file, taxonomy(), 1, rejected).labels == 2
    named = import_labels(sqlite_store, file, taxonomy(), 1, rejected, "what", ["guess"], "name")
    assert named.labels == 2
    assert dict(effective_labels(sqlite_store).select("key", "label").iter_rows()) == {
        text_key("a"): KNIVES,
        text_key("b"): "Garden > Seeds > Flowers",
        text_key("c"): HOSES,
        text_key("d"): KETTLES,
    }
    assert read_contents(sqlite_store)["source_id"].to_list() == [
        text_key("a").hex(),
        text_key("b").hex(),
        "a",
        "b",
    ]


def test_recorded_chat_completions(sqlite_store: Store, tmp_path: Path) -> None:
    def asks(text: str) -> list[dict[str, object]]:
        return [{"role": "system", "content": "Classify."}, {"role": "user", "content": text}]

    def replies(label: str) -> dict[str, object]:
        return {"choices": [{"message": {"role": "assistant", "content": json.dumps({"label": label})}}]}

    lines = [
        {"messages": [*asks("a"), {"role": "assistant", "content": KNIVES}]},
        {"messages": asks("b"), "response": "Kettles"},
        {"messages": asks("c"), "response": replies(HOSES), "id": 3},
        {"custom_id": "x", "body": {"messages": asks("d")}, "response": {"body": replies("knives")}},
        {
            "request": {"messages": [{"role": "user", "content": [{"type": "text", "text": "e"}]}]},
            **replies("hoses"),
        },
        {"messages": asks("f"), "response": "I do not know"},
    ]
    file = tmp_path / "chat.jsonl"
    file.write_text("\n".join([json.dumps(line) for line in lines] + ["no json"]))
    done = import_labels(sqlite_store, file, taxonomy(), 1, tmp_path / "rejected.csv")
    assert (done.rows, done.labels, done.rejected) == (7, 5, {"unknown label": 1, "empty text": 1})
    assert dict(effective_labels(sqlite_store).select("key", "label").iter_rows()) == {
        text_key("a"): KNIVES,
        text_key("b"): KETTLES,
        text_key("c"): HOSES,
        text_key("d"): KNIVES,
        text_key("e"): HOSES,
    }


def test_columns_that_cannot_be_told_are_asked_for(sqlite_store: Store, tmp_path: Path) -> None:
    file = _write(pl.DataFrame({"words": ["a"], "label": ["Kettles"]}), tmp_path / "h.csv")
    with pytest.raises(InputError, match=r"no input column is recognised.*words, label"):
        import_labels(sqlite_store, file, taxonomy(), 1, tmp_path / "rejected.csv")
    with pytest.raises(InputError, match="label column 'level' is missing"):
        import_labels(sqlite_store, file, taxonomy(), 1, tmp_path / "rejected.csv", "words", ["level"])
