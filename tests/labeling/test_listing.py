"""Labels as the teacher reads and writes them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling.listing import (
    ELSEWHERE,
    branch,
    elsewhere,
    first_level,
    in_order_of_pass,
    line_of,
    listing,
    shortlist,
    sign,
    whole,
)
from tasks.taxonomy import Taxonomy, build_taxonomy
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, taxonomy

AMBIGUOUS = build_taxonomy(
    {
        "Phones": {"Cases": "for phones", "Chargers": None},
        "Cameras": {"Cases": "for cameras", "Lenses": {"Wide": None, "Tele": None}},
        "Books": None,
        "Media": {"Books": None, "Phones": None},
    },
    other="none of these",
)


def _written(text: str) -> list[str]:
    return re.findall(r"^ *- ([^:\n]+)", text, re.MULTILINE)


def test_the_listing_is_a_tree_whose_labels_stand_behind_dashes() -> None:
    lines = set(listing(taxonomy(), whole(taxonomy()), 1).split("\n"))
    assert lines == {
        "Kitchen: things to cook with",
        " - Kettles: to boil water in",
        " - Knives",
        "Garden",
        " - Hoses",
        " Seeds",
        "  - Flowers",
        "  - Vegetables",
        "- none of these: fits none of the other labels",
    }


@pytest.mark.parametrize("labels", [taxonomy(), AMBIGUOUS])
def test_a_label_stands_below_its_own_headings(labels: Taxonomy) -> None:
    """Whatever the order: the path can be read off the indentation."""
    offer = whole(labels)
    for number in (1, 2, 3):
        above: list[str] = []
        found = []
        for line in listing(labels, offer, number).split("\n"):
            depth = len(line) - len(line.lstrip(" "))
            name = line.strip().removeprefix("- ").split(":")[0]
            above = [*above[:depth], name.split(" > ")[-1]]
            if line.lstrip().startswith("- "):
                found.append(" > ".join(above))
        assert sorted(found) == sorted(labels.leaves)


@pytest.mark.parametrize("labels", [taxonomy(), AMBIGUOUS])
def test_every_name_that_is_shown_means_its_own_label(labels: Taxonomy) -> None:
    offers = [whole(labels), first_level(labels), shortlist(labels)]
    offers += [branch(labels, node) for node in labels.nodes[0] if node not in labels.leaf_index]
    for offer in offers:
        assert len(set(offer.names)) == len(offer.names) == len(offer.labels)
        for label, name in zip(offer.labels, offer.names, strict=True):
            if not (
                label == labels.other and ELSEWHERE in offer.labels and len(offer.labels) > len(labels.leaves)
            ):
                assert offer.resolve(name) == label
                assert offer.resolve(f"  {name.upper()} ") == label


def test_a_name_that_two_labels_bear_is_written_with_its_path() -> None:
    """Also where one of the two is no leaf, or stands alone."""
    assert whole(AMBIGUOUS).names == (
        "Phones > Cases",
        "Chargers",
        "Cameras > Cases",
        "Wide",
        "Tele",
        "Books",
        "Media > Books",
        "Media > Phones",
        "none of these",
    )


@given(st.integers(2, 6), st.integers(0, 1000), st.integers(1, 6))
def test_neighbouring_passes_never_share_an_order(labels: int, salt: int, number: int) -> None:
    """Also with two labels, where a mere shuffle would repeat itself half of the time."""
    tree = build_taxonomy({f"label {salt} {i}": None for i in range(labels)})
    first, second = (_written(listing(tree, whole(tree), one)) for one in (2 * number - 1, 2 * number))
    assert first == second[::-1]
    assert sorted(first) == sorted(tree.leaves)


def test_the_first_level_says_what_it_holds() -> None:
    lines = listing(taxonomy(), first_level(taxonomy()), 1).split("\n")
    assert sorted(lines) == [
        "- Garden: such as Hoses, Seeds",
        "- Kitchen: things to cook with",
        "- none of these: fits none of the other labels",
    ]


def test_a_reply_of_the_first_stage_may_go_further_but_only_its_first_level_counts() -> None:
    resolve = first_level(taxonomy()).resolve
    assert resolve("kitchen") == "Kitchen"
    assert resolve("Garden > Hoses") == resolve("hoses") == "Garden"
    assert resolve("none of these") == "none of these"
    assert resolve("Kitchen > Hoses") is None
    assert resolve("Toasters") is None


def test_a_branch_offers_its_leaves_and_two_ways_out() -> None:
    offer = branch(taxonomy(), "Kitchen")
    assert offer.labels == (KETTLES, KNIVES, "none of these", ELSEWHERE)
    assert offer.names == ("Kettles", "Knives", "none of these", "(elsewhere)")
    assert offer.resolve("(elsewhere)") == offer.resolve("Elsewhere.") == ELSEWHERE
    assert offer.resolve(HOSES) == ELSEWHERE, "a leaf of another branch was not in view"
    assert offer.resolve("Toasters") is None
    with pytest.raises(ValueError, match="no label stands below"):
        branch(taxonomy(), KETTLES)


def test_a_branch_without_the_leaf_for_what_fits_nothing_offers_one_way_out() -> None:
    tree = build_taxonomy({"Kitchen": {"Kettles": None, "Knives": None}, "Garden": {"Hoses": None}})
    assert branch(tree, "Kitchen").names == ("Kettles", "Knives", "(elsewhere)")


def test_a_shortlist_takes_every_label_but_none_of_these() -> None:
    """Whether nothing fits can only be said with all labels in view."""
    resolve = shortlist(taxonomy()).resolve
    assert resolve("kettles") == KETTLES
    assert resolve("(elsewhere)") == resolve("none of these") == ELSEWHERE
    assert resolve("Toasters") is None


def test_a_label_with_the_name_of_the_way_out_stays_a_label() -> None:
    tree = build_taxonomy({"Places": {"(elsewhere)": None, "Home": None}, "Things": {"Cup": None}})
    offer = branch(tree, "Places")
    assert elsewhere(tree) == "((elsewhere))"
    assert offer.resolve("(elsewhere)") == "Places > (elsewhere)"
    assert offer.resolve("((elsewhere))") == ELSEWHERE


def test_the_sign_before_an_instruction_is_in_no_name() -> None:
    tree = build_taxonomy({"Re: orders": "about an order", "Re: money": None})
    assert sign(tree) == " ="
    assert line_of(tree, whole(tree), "Re: orders") == "Re: orders = about an order"
    assert sign(taxonomy()) == ":"


@given(st.integers(3, 6), st.integers(0, 200))
def test_six_passes_over_three_labels_or_more_have_six_orders(labels: int, salt: int) -> None:
    orders = [in_order_of_pass(range(labels), number, str(salt)) for number in range(1, 7)]
    assert len({tuple(order) for order in orders}) == 6
