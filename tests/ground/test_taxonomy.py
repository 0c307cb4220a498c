"""The label tree: paths, levels, and how a written label becomes a leaf."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import TaxonomyError
from tasks.taxonomy import Taxonomy, build_taxonomy, join, load_taxonomy, split, truncate

NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), exclude_characters=">"),
    min_size=1,
    max_size=8,
).filter(lambda name: name != "_about" and name == name.strip())


def _same_name(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _siblings(below: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.lists(
        st.tuples(NAMES, below), min_size=1, max_size=4, unique_by=lambda p: _same_name(p[0])
    ).map(dict)


TREES = _siblings(st.one_of(st.none(), _siblings(st.one_of(st.none(), _siblings(st.none())))))
TAXONOMIES = TREES.map(lambda tree: build_taxonomy(tree, other=None))

CATALOGUE: dict[str, Any] = {
    "Electronics": {
        "_about": "devices with a plug",
        "Phones": {"Smartphones": "touch-screen phones", "Feature phones": None},
        "Cases": {},
    },
    "Home & Garden": {"Kitchen": {"Kettles": "", "Cases": None}},
    "Gift cards": None,
}
LEVELS = ("department", "category", "product_type")


@pytest.fixture
def catalogue() -> Taxonomy:
    return build_taxonomy(CATALOGUE, LEVELS, "none of these")


@given(st.lists(NAMES, min_size=1, max_size=5))
def test_split_undoes_join(path: list[str]) -> None:
    """A path survives being written and read."""
    assert split(join(path)) == tuple(path)


@given(st.lists(NAMES, min_size=1, max_size=5), st.integers(1, 6), st.integers(1, 6))
def test_truncating_keeps_the_beginning(path: list[str], first: int, second: int) -> None:
    """A cut label is the path's beginning, and cutting twice is cutting once at the smaller depth."""
    label = join(path)
    assert split(truncate(label, first)) == tuple(path[:first])
    assert truncate(truncate(label, first), second) == truncate(label, min(first, second))


@given(TAXONOMIES)
def test_every_leaf_resolves_to_itself(taxonomy: Taxonomy) -> None:
    """A leaf means itself however it is spaced, composed or decomposed, and survives its columns."""
    for leaf in taxonomy.leaves:
        assert taxonomy.resolve(leaf) == leaf
        assert taxonomy.resolve("  " + leaf.replace(" > ", "  >") + " ") == leaf
        assert taxonomy.resolve(unicodedata.normalize("NFD", leaf)) == leaf
        columns = taxonomy.to_columns(leaf)
        assert list(columns) == list(taxonomy.levels)
        assert taxonomy.from_columns(list(columns.values())) == leaf


@given(TAXONOMIES)
def test_levels_agree_with_each_other(taxonomy: Taxonomy) -> None:
    """Each level's nodes are all used, hold every leaf's beginning, and refine the level above."""
    for depth, (nodes, mapping) in enumerate(zip(taxonomy.nodes, taxonomy.level_maps, strict=True), start=1):
        assert len(mapping) == len(taxonomy.leaves)
        assert set(mapping) == set(range(len(nodes)))
        assert [nodes[place] for place in mapping] == [truncate(leaf, depth) for leaf in taxonomy.leaves]
    for upper, lower in zip(taxonomy.level_maps, taxonomy.level_maps[1:], strict=False):
        above: dict[int, int] = {}
        for parent, child in zip(upper, lower, strict=True):
            assert above.setdefault(child, parent) == parent
    assert taxonomy.nodes[-1] == taxonomy.leaves


def test_the_leaves_of_a_tree(catalogue: Taxonomy) -> None:
    """Branches end at different depths, empty values of three kinds are leaves, `other` comes last."""
    assert catalogue.leaves == (
        "Electronics > Phones > Smartphones",
        "Electronics > Phones > Feature phones",
        "Electronics > Cases",
        "Home & Garden > Kitchen > Kettles",
        "Home & Garden > Kitchen > Cases",
        "Gift cards",
        "none of these",
    )
    assert catalogue.other == "none of these"
    assert catalogue.about["Electronics"] == "devices with a plug"
    assert catalogue.about["Electronics > Phones > Smartphones"] == "touch-screen phones"
    assert "Home & Garden > Kitchen > Kettles" not in catalogue.about


@pytest.mark.parametrize(
    ("written", "leaf"),
    [
        ("smartphones", "Electronics > Phones > Smartphones"),
        ("ELECTRONICS>phones >  Smartphones ", "Electronics > Phones > Smartphones"),
        ("feature   phones", "Electronics > Phones > Feature phones"),
        ("Electronics > Cases", "Electronics > Cases"),
        ("Cases", None),  # two leaves bear the name
        ("Phones", None),  # has labels below it
        ("Electronics > Smartphones", None),  # skips a level
        ("Smartphone", None),
        ("", None),
        (" > ", None),
    ],
)
def test_a_bare_leaf_is_resolved_only_where_it_is_unique(
    catalogue: Taxonomy, written: str, leaf: str | None
) -> None:
    """Case and spacing are forgiven; an ambiguous, inner or misspelt name is no label."""
    assert catalogue.resolve(written) == leaf


def test_the_nearest_leaf_is_named(catalogue: Taxonomy) -> None:
    """A misspelling finds its leaf for the error message; nonsense finds none."""
    assert catalogue.nearest("Smartphnes") == "Electronics > Phones > Smartphones"
    assert catalogue.nearest("@@@@") is None


def test_empty_columns_are_no_label(catalogue: Taxonomy) -> None:
    """Nulls and blanks below a branch's end are skipped, and nothing but them is None."""
    assert catalogue.from_columns(["Electronics", "Cases", None]) == "Electronics > Cases"
    assert catalogue.from_columns(["Gift cards", " ", ""]) == "Gift cards"
    assert catalogue.from_columns([None, "", " "]) is None
    assert catalogue.from_columns(["Electronics", "Kitchen", "Kettles"]) is None


def test_the_version_follows_what_a_prompt_shows() -> None:
    """Names, levels, instructions and `other` each change the version; loading again does not."""
    base = build_taxonomy({"a": "x", "b": None}, ["l"], "other")
    assert base.version == build_taxonomy({"a": "x", "b": None}, ["l"], "other").version
    changed = [
        build_taxonomy({"a": "y", "b": None}, ["l"], "other"),
        build_taxonomy({"a": "x", "c": None}, ["l"], "other"),
        build_taxonomy({"a": "x", "b": None}, ["m"], "other"),
        build_taxonomy({"a": "x", "b": None}, ["l"], None),
    ]
    assert len({base.version, *(taxonomy.version for taxonomy in changed)}) == 5


def test_levels_are_named_when_the_project_names_none() -> None:
    """A flat task's one level is `label`; deeper ones are l1, l2, ..."""
    assert build_taxonomy({"a": None}).levels == ("label",)
    assert build_taxonomy({"a": {"b": {"c": None}}}).levels == ("l1", "l2", "l3")


def test_other_may_be_a_leaf_of_the_tree() -> None:
    """A tree that already has the leaf keeps its own spelling and instruction, once."""
    taxonomy = build_taxonomy({"a": None, "Other": "what is left"}, other="other")
    assert taxonomy.leaves == ("a", "Other")
    assert (taxonomy.other, taxonomy.about["Other"]) == ("Other", "what is left")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:\na:\n", ["'a' stands twice", "line 2"]),
        ("x:\n  Kettles:\n  Kettles: again\n", ["'Kettles' stands twice", "line 3"]),
        ("Kettles:\nkettles :\n", ["equal paths", "kettles"]),
        ('Kettles:\n"Ket  tles":\n"ket tles":\n', ["equal paths", "ket tles"]),
        ("A:\n  b:\na:\n  c:\n", ["equal paths", "a"]),  # inner labels too, or a level has two of one name
        ("caf\u00e9:\ncafe\u0301:\n", ["equal paths"]),
        ("", ["not a nested mapping"]),
        ("- a\n- b\n", ["not a nested mapping"]),
        ("just words", ["not a nested mapping"]),
        ("_about: nothing else\n", ["holds no label"]),
        ("a: [b, c]\n", ["a list where labels", "a"]),
        ("a > b:\n", ["contains '>'"]),
        ('" ":\n', ["is empty"]),
        ("a: {b: [}\n", ["line 1"]),
        ("? [a, b]\n: c\n", ["where a name is expected"]),
        ("a: 2024-13-45\n", ["month"]),
        ("a:\n  other:\nother:\n  b:\n", ["task.other", "labels below"]),
    ],
)
def test_a_wrong_tree_is_refused_with_its_file_and_place(tmp_path: Path, text: str, words: list[str]) -> None:
    """Every mistake names the file and what is wrong, and costs exit code 2."""
    file = tmp_path / "labels.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TaxonomyError) as caught:
        load_taxonomy(file, other="other")
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("other", ["", "  ", "a > b"])
def test_other_must_be_a_name(other: str) -> None:
    """An empty `other`, or one that looks like a path, is refused."""
    with pytest.raises(TaxonomyError, match=r"task\.other"):
        build_taxonomy({"a": None}, other=other)


@pytest.mark.parametrize("levels", [["one"], ["one", "two", "three"]])
def test_the_depth_must_fit_the_levels(levels: list[str]) -> None:
    """A two-level tree is refused under one or three level names."""
    with pytest.raises(TaxonomyError, match=f"2 levels deep but task.levels names {len(levels)}"):
        build_taxonomy({"a": {"b": None}, "c": None}, levels)


def test_a_missing_taxonomy_is_a_configuration_error(tmp_path: Path) -> None:
    """No file, and a file that is not text, are refused with the remedy."""
    with pytest.raises(TaxonomyError, match=r"task\.taxonomy"):
        load_taxonomy(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(TaxonomyError, match="cannot be read"):
        load_taxonomy(tmp_path / "bytes.yaml")


def test_labels_are_kept_as_written(tmp_path: Path) -> None:
    """Names that YAML takes for booleans, numbers or dates stay the words they were."""
    file = tmp_path / "labels.yaml"
    file.write_text("No:\nYes:\n1.10:\n2024-01-01:\nnull:\n007:\n")
    assert load_taxonomy(file).leaves == ("No", "Yes", "1.10", "2024-01-01", "null", "007")
