"""The words the embedded catalogue is made of, read from two YAML files beside this module.

It owns their shape (departments, categories, product types, forms a language). It does not know how a name is
put together, nor how often a product type is sold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

LANGUAGES = ("en", "de", "fr", "es", "tr")
"""Languages sold in from the first day."""
DRIFT_LANGUAGE = "it"
"""The language that only drifted traffic speaks."""
NONE_OF_THESE = "none of these"
"""The gold label of what belongs nowhere in the taxonomy."""


@dataclass(frozen=True)
class ProductType:
    """One leaf of the catalogue: its path, its instruction, its words.

    Attributes:
        path: department, category, product type.
        about: the labelling instruction.
        forms: language to surface forms.
        new_forms: English forms that only drifted traffic uses; may be empty.
        brands: brands of the department.
        sizes: size patterns of the category.
        ambiguous: short words that may also mean other product types; may be empty.
    """

    path: tuple[str, str, str]
    about: str
    forms: Mapping[str, tuple[str, ...]]
    new_forms: tuple[str, ...]
    brands: tuple[str, ...]
    sizes: tuple[str, ...]
    ambiguous: tuple[str, ...]


@dataclass(frozen=True)
class Phrases:
    """What sellers add to any name, in every language, and the things that belong nowhere."""

    colours: Mapping[str, tuple[str, ...]]
    claims: Mapping[str, tuple[str, ...]]
    packs: Mapping[str, tuple[str, ...]]
    with_words: Mapping[str, str]
    for_words: Mapping[str, str]
    house_brands: tuple[str, ...]
    drift_brands: tuple[str, ...]
    none_of_these: Mapping[str, tuple[str, ...]]
    stray_sizes: tuple[str, ...]
    stray_brands: tuple[str, ...]


def _split(forms: str) -> tuple[str, ...]:
    return tuple(form.strip() for form in forms.split(" / "))


def _read(name: str) -> Any:
    return yaml.safe_load(files("tasks.demo").joinpath(name).read_text(encoding="utf-8"))


@cache
def product_types() -> tuple[ProductType, ...]:
    """All 120 product types in the order of the file."""
    ambiguous: dict[str, list[str]] = {}
    for word, leaves in _read("phrases.yaml")["ambiguous"].items():
        for leaf in _split(leaves):
            ambiguous.setdefault(leaf, []).append(word)
    types = []
    for department, inside in _read("vocabulary.yaml").items():
        for category, shelf in inside["categories"].items():
            for leaf, words in shelf["types"].items():
                types.append(
                    ProductType(
                        path=(department, category, leaf),
                        about=words["about"],
                        forms={lang: _split(words[lang]) for lang in (*LANGUAGES, DRIFT_LANGUAGE)},
                        new_forms=_split(words["new"]) if "new" in words else (),
                        brands=_split(inside["brands"]),
                        sizes=_split(shelf["sizes"]),
                        ambiguous=tuple(ambiguous.get(leaf, ())),
                    )
                )
    return tuple(types)


@cache
def phrases() -> Phrases:
    """The words that belong to no single product type."""
    raw = _read("phrases.yaml")
    by_language = {
        key: {lang: _split(text) for lang, text in raw[key].items()}
        for key in ("colours", "claims", "packs", "none_of_these")
    }
    stray = by_language["none_of_these"]
    return Phrases(
        colours=by_language["colours"],
        claims=by_language["claims"],
        packs=by_language["packs"],
        with_words=raw["with"],
        for_words=raw["for"],
        house_brands=_split(raw["house_brands"]),
        drift_brands=_split(raw["drift_brands"]),
        none_of_these={k: v for k, v in stray.items() if k not in ("sizes", "brands")},
        stray_sizes=stray["sizes"],
        stray_brands=stray["brands"],
    )


def taxonomy_mapping() -> dict[str, Any]:
    """The catalogue's taxonomy as the nested mapping of a taxonomy file.

    Returns:
        department to (`_about` and category to (`_about` and product type to its instruction)).
    """
    tree: dict[str, Any] = {}
    for department, inside in _read("vocabulary.yaml").items():
        tree[department] = {"_about": inside["about"]}
        for category, shelf in inside["categories"].items():
            leaves = {leaf: words["about"] for leaf, words in shelf["types"].items()}
            tree[department][category] = {"_about": shelf["about"], **leaves}
    return tree
