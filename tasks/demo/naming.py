"""How a seller writes a product's name: which words, in which order, how carelessly.

It owns the messiness of one name. It does not know how many products there are, which are sold often, or
which names were already used.
"""

from __future__ import annotations

import random
import re
import unicodedata
from dataclasses import dataclass

from tasks.demo.vocabulary import DRIFT_LANGUAGE, LANGUAGES, ProductType, phrases

_PATTERN = re.compile(r"\{([^}]*)\}")
_CONSONANTS = "bcdfghjklmnprstvwz"


@dataclass(frozen=True)
class Habits:
    """How often sellers do what, as shares of all names; the weights of the languages they write in.

    The defaults are a guess at how marketplace listings look, then made tidier three times against a linear student
    on the embedded, English encoder (clean leaves right on gold, seed 0: 70, 78, 81, then 83 %): fewer foreign
    names, typos, abbreviations, ambiguous words and extras, and a shorter tail of rare types (`catalogue`).
    `drift_words` is the share of names that use a word or brand unknown before the drift.
    """

    languages: tuple[tuple[str, float], ...] = (
        ("en", 0.85),
        ("de", 0.05),
        ("es", 0.04),
        ("fr", 0.04),
        ("tr", 0.02),
    )
    ambiguous: float = 0.04
    no_product_word: float = 0.015
    second_product: float = 0.04
    mixed_language: float = 0.05
    typo: float = 0.06
    abbreviation: float = 0.03
    no_diacritics: float = 0.10
    drift_words: float = 0.0


DAY_ONE = Habits()
DRIFTED = Habits(
    languages=(("en", 0.74), ("de", 0.05), ("es", 0.06), ("fr", 0.04), ("tr", 0.05), (DRIFT_LANGUAGE, 0.06)),
    drift_words=0.15,
)


def fill(rng: random.Random, pattern: str) -> str:
    """The pattern with every {a-b} replaced by a number from a to b and every {a|b} by one of the choices."""

    def one(match: re.Match[str]) -> str:
        inside = match.group(1)
        span = re.fullmatch(r"(\d+)-(\d+)", inside)
        if span:
            return str(rng.randint(int(span.group(1)), int(span.group(2))))
        return rng.choice(inside.split("|"))

    return _PATTERN.sub(one, pattern)


def model_code(rng: random.Random) -> str:
    """A made-up model number such as XR-540."""
    letters = "".join(rng.choice(_CONSONANTS).upper() for _ in range(rng.choice((1, 2, 2, 3))))
    return (
        f"{letters}{rng.choice(('-', '', ' '))}{rng.randint(2, 9900)}{rng.choice(('', '', '', 'S', ' Pro'))}"
    )


def pick_language(rng: random.Random, habits: Habits) -> str:
    """One language by the habits' weights."""
    names, weights = zip(*habits.languages, strict=True)
    return rng.choices(names, weights)[0]


def product_name(rng: random.Random, kind: ProductType, shelf: list[ProductType], habits: Habits) -> str:
    """A name of a product of this kind.

    Args:
        rng: the only source of chance.
        kind: what the product is.
        shelf: product types a second product of the same name may come from ("strap for smartwatch").
        habits: how the seller writes.

    Returns:
        One line of text, at least two characters long.
    """
    words = phrases()
    language = pick_language(rng, habits)
    other = rng.choice(LANGUAGES) if rng.random() < habits.mixed_language else language
    drifting = rng.random() < habits.drift_words

    head = rng.choice(kind.forms[language])
    if drifting and kind.new_forms:
        head = rng.choice(kind.new_forms)
    elif kind.ambiguous and rng.random() < habits.ambiguous:
        head = rng.choice(kind.ambiguous)
    elif rng.random() < habits.no_product_word:
        head = ""

    extras: list[str] = []
    if rng.random() < 0.45:
        extras.append(fill(rng, rng.choice(kind.sizes)))
    if rng.random() < 0.25:
        extras.append(rng.choice(words.colours[other]))
    if rng.random() < 0.25:
        extras.append(rng.choice(words.claims[other]))
    if rng.random() < 0.10:
        extras.append(fill(rng, rng.choice(words.packs[language])))
    if rng.random() < 0.15:
        extras.append(model_code(rng))
    if not head and not extras:
        extras.append(fill(rng, rng.choice(kind.sizes)))
    rng.shuffle(extras)

    brand = ""
    if rng.random() < 0.55 or not head:
        brands = words.drift_brands if drifting else kind.brands
        brand = rng.choice(words.house_brands if rng.random() < 0.25 else brands)

    if head and rng.random() < habits.second_product:
        second = rng.choice(rng.choice(shelf).forms[language])
        joint = words.with_words if rng.random() < 0.6 else words.for_words
        head = f"{head} {joint[language]} {second}"
    return scrawl(rng, arrange(rng, brand, head, extras), habits)


def arrange(rng: random.Random, brand: str, head: str, extras: list[str]) -> str:
    """Brand, product word and the rest in one of the orders listings use, with their odd separators."""
    order = rng.random()
    if order < 0.45:
        parts = [brand, head, *extras]
    elif order < 0.65:
        parts = [head, brand, *extras]
    elif order < 0.80:
        parts = [head, *extras, brand]
    elif order < 0.92:
        parts = [brand, *extras, head]
    else:
        parts = [*extras, head, brand]
    separator = rng.choices((" ", ", ", " - ", " / ", " | "), (80, 9, 6, 3, 2))[0]
    kept = [part for part in parts if part]
    # The first two words stay together: a separator before the last part is what listings show.
    return separator.join([" ".join(kept[:2]), *kept[2:]])


def scrawl(rng: random.Random, name: str, habits: Habits) -> str:
    """The name as a careless seller types it: typos, abbreviations, lost accents, odd case."""
    if rng.random() < habits.abbreviation:
        name = _abbreviate(rng, name)
    while rng.random() < habits.typo:
        name = _mistype(rng, name)
    if rng.random() < habits.no_diacritics:
        bare = unicodedata.normalize("NFKD", name.replace("ß", "ss").replace("ı", "i"))
        name = "".join(c for c in bare if not unicodedata.combining(c))
    case = rng.random()
    if case < 0.12:
        name = name.upper()
    elif case < 0.30:
        name = name.lower()
    elif case < 0.50:
        name = " ".join(word[:1].upper() + word[1:] for word in name.split(" "))
    return name


def _abbreviate(rng: random.Random, name: str) -> str:
    words = name.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 6 and word.isalpha()]
    if not long:
        return name
    i = rng.choice(long)
    if rng.random() < 0.5:
        words[i] = words[i][: rng.randint(3, 5)] + "."
    else:
        words[i] = words[i][0] + re.sub("[aeiouäöüéèıAEIOU]", "", words[i][1:])
    return " ".join(words)


def _mistype(rng: random.Random, name: str) -> str:
    letters = [i for i in range(1, len(name) - 1) if name[i].isalpha() and name[i + 1].isalpha()]
    if not letters:
        return name
    i = rng.choice(letters)
    kind = rng.randrange(4)
    if kind == 0:
        return name[:i] + name[i + 1] + name[i] + name[i + 2 :]
    if kind == 1:
        return name[:i] + name[i + 1 :]
    if kind == 2:
        return name[:i] + name[i] + name[i:]
    return name[:i] + rng.choice(_CONSONANTS + "aeiou") + name[i + 1 :]


def stray_name(rng: random.Random, habits: Habits) -> str:
    """A name of something that belongs to no product type ("gift card 25 EUR")."""
    words = phrases()
    language = pick_language(rng, habits)
    forms = words.none_of_these[language]
    if rng.random() < habits.drift_words:
        forms = words.none_of_these["new"]
    parts = [rng.choice(forms)]
    if rng.random() < 0.6:
        parts.append(fill(rng, rng.choice(words.stray_sizes)))
    if rng.random() < 0.35:
        parts.append(rng.choice(words.claims[language]))
    brand = rng.choice(words.stray_brands) if rng.random() < 0.4 else ""
    return scrawl(rng, arrange(rng, brand, parts[0], parts[1:]), habits)
