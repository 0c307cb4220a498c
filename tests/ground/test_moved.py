"""What became of labels that a taxonomy no longer has: the file that says it, and stored labels read by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import ConfigError, TaxonomyError
from tasks.moved import lost_in_words, with_moved
from tasks.project import load_project
from tasks.store import Store
from tasks.store.labels import append_labels, effective_labels, raw_labels
from tasks.store.moved import current_labels, lost_labels, today, today_or_then
from tasks.taxonomy import Taxonomy, build_taxonomy
from tests.conftest import write_tiny_project

NOW = build_taxonomy(
    {
        "Devices": {"Phones": "to call with", "Radios": None},
        "Home": {"Kettles": None, "Knives": {"Bread knives": None, "Cleavers": None}},
    },
    other="none of these",
)


def moved(tmp_path: Path, moves: Any, taxonomy: Taxonomy = NOW) -> Taxonomy:
    file = tmp_path / "moved.yaml"
    file.write_text(yaml.safe_dump(moves, sort_keys=False) if not isinstance(moves, str) else moves)
    return with_moved(taxonomy, file)


def test_a_label_is_followed_to_what_it_is_now(tmp_path: Path) -> None:
    """Renamed, merged, moved twice, moved with its branch; split and given up lead nowhere."""
    tree = moved(
        tmp_path,
        {
            "Home > Teapots": "Home > Kettles",
            "Home > Samovars": "Home > Teapots",
            "Electronics": "Devices",
            "Home > Blades": ["Home > Knives > Bread knives", "Home > Knives > Cleavers"],
            "Home > Candles": None,
        },
    )
    for then, now in {
        "Home > Kettles": "Home > Kettles",
        "Home > Teapots": "Home > Kettles",
        "Home > Samovars": "Home > Kettles",
        "Electronics > Phones": "Devices > Phones",
        "Electronics > Gramophones": None,
        "Home > Blades": None,
        "Home > Candles": None,
        "Home > Unheard of": None,
        "none of these": "none of these",
    }.items():
        assert tree.today(then) == now, then
    assert tree.version == NOW.version, "where labels came from changes no prompt"


def test_what_is_written_is_resolved_by_the_same_moves(tmp_path: Path) -> None:
    """Gold and imports may still name the old path, in any case; a split label is nobody's guess."""
    moves = {"Home > Teapots": "Home > Kettles", "Home > Blades": ["Home > Kettles", "Devices > Radios"]}
    tree = moved(tmp_path, moves)
    assert tree.resolve("home > TEAPOTS") == "Home > Kettles"
    assert tree.from_columns(["Home", "Teapots", None]) == "Home > Kettles"
    assert tree.resolve("Home > Blades") is None
    assert tree.resolve("Kettles") == "Home > Kettles"


@pytest.mark.parametrize(
    ("moves", "said"),
    [
        (
            {"Home > Pots": "Home > Kettels"},
            "'Home > Kettels', which is no label.*Did you mean 'Home > Kettles'",
        ),
        ({"A": "B", "B": "A"}, "in a circle: 'A' to 'B' to 'A'.*end at a label"),
        ({"A": "A"}, "in a circle"),
        ({"Home > Kettles": "Devices > Radios"}, "is still a label.*another name"),
        ({"Home > Pots": ["Home > Kettles", "Nowhere"]}, "'Nowhere', which is no label"),
        ({"Home > Pots": 7}, "no path.*in quotes"),
        ("- Home > Pots", "one line for each label"),
        ("A: [", "is no mapping"),
        ("A: B\nA: C\n", "stands twice"),
    ],
)
def test_a_wrong_file_is_refused_with_its_remedy(tmp_path: Path, moves: Any, said: str) -> None:
    with pytest.raises(TaxonomyError, match=said):
        moved(tmp_path, moves)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match=r"nothing\.yaml.*task\.moved"):
        with_moved(NOW, tmp_path / "nothing.yaml")


NAMES = st.sampled_from("ABCDEFG")


@given(st.dictionaries(NAMES, st.lists(NAMES, max_size=2).map(tuple), max_size=7), NAMES, st.booleans())
def test_following_ends_whatever_the_moves(moves: dict[str, tuple[str, ...]], name: str, below: bool) -> None:
    """Even circles that no file could bring: a leaf or None, never a loop."""
    tree = Taxonomy(("label",), ("A", "B > C"), {}, None, moves)
    assert tree.today(f"{name} > C" if below else name) in ("A", "B > C", None)


def key(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def labelled(store: Store, tree: Taxonomy) -> dict[str, tuple[str, str]]:
    rows = current_labels(store, tree).iter_rows()
    return {name.rstrip(b".").decode(): (label, source) for name, label, source in rows}


def test_stored_labels_are_read_as_of_today_and_stay_as_they_were(store: Store, tmp_path: Path) -> None:
    """Moved ones count under their new name, lost ones not at all; the table keeps what was given."""
    tree = moved(tmp_path, {"Home > Teapots": "Home > Kettles", "Old radios": "Devices > Radios"})
    given_labels = [
        (key("moved"), "Home > Teapots", "consensus"),
        (key("same"), "Home > Kettles", "human"),
        (key("lost"), "Home > Candles", "consensus"),
        (key("merged"), "Old radios", "imported"),
        (key("merged"), "Devices > Radios", "imported"),
        (key("tied"), "Old radios", "imported"),
        (key("tied"), "Home > Kettles", "imported"),
    ]
    append_labels(store, given_labels, 1)
    before = raw_labels(store)
    assert labelled(store, tree) == {
        "moved": ("Home > Kettles", "consensus"),
        "same": ("Home > Kettles", "human"),
        "merged": ("Devices > Radios", "imported"),
    }
    assert lost_labels(store, tree) == {"Home > Candles": 1}
    assert raw_labels(store).equals(before)
    assert set(effective_labels(store)["label"]) >= {"Home > Teapots", "Home > Candles"}


def test_a_lost_label_takes_what_it_outranked_with_it(store: Store, tmp_path: Path) -> None:
    """What a person had corrected does not come back; what is said afterwards counts, whoever says it."""
    append_labels(
        store,
        [
            (key("corrected"), "Devices > Phones", "consensus"),
            (key("corrected"), "Home > Candles", "human"),
            (key("better"), "Devices > Radios", "human"),
            (key("better"), "Home > Candles", "consensus"),
            (key("outvoted"), "Home > Candles", "imported"),
            (key("outvoted"), "Home > Candles", "imported"),
            (key("outvoted"), "Home > Kettles", "imported"),
        ],
        1,
    )
    assert labelled(store, NOW) == {"better": ("Devices > Radios", "human")}
    append_labels(store, [(key("corrected"), "Home > Kettles", "single")], 2)
    assert labelled(store, NOW)["corrected"] == ("Home > Kettles", "single")


def test_labels_in_frames_and_of_students(tmp_path: Path) -> None:
    tree = moved(tmp_path, {"Home > Teapots": "Home > Kettles"})
    said = pl.Series(["Home > Teapots", None, "Gone", "Devices > Phones"])
    assert today(said, tree).to_list() == ["Home > Kettles", None, None, "Devices > Phones"]
    assert today_or_then(["Home > Teapots", "Gone"], tree) == ["Home > Kettles", "Gone"]
    assert today(said.clear(), tree).to_list() == []


def test_a_project_names_the_file_beside_it(tmp_path: Path) -> None:
    """`task.moved` is read from the folder of the project file; a wrong value is refused with its place."""
    (tmp_path / "moved.yaml").write_text("Kitchen > Teapots: Kitchen > Kettles\n")
    project = load_project(write_tiny_project(tmp_path, task={"moved": "moved.yaml"}))
    assert project.taxonomy.resolve("Kitchen > Teapots") == "Kitchen > Kettles"
    with pytest.raises(TaxonomyError, match=r"none\.yaml.*task\.moved"):
        _ = load_project(write_tiny_project(tmp_path, task={"moved": "none.yaml"})).taxonomy
    with pytest.raises(ConfigError, match=r"task\.moved.*template\.yaml"):
        load_project(write_tiny_project(tmp_path, task={"moved": ["moved.yaml"]}))


def test_lost_labels_are_named_with_their_items_and_what_to_do() -> None:
    said = lost_in_words({f"Home > {name}": count for count, name in enumerate("GFEDCBA", start=1000)})
    assert said.startswith("Home > G (1,000), ")
    assert "and 2 more; `flywheel label`" in said
    assert "task.moved" in said
