"""Which labels a request offers, how they are written into its prompt, and which label a written name means.

A label is written by its own name where no other label bears it, else by its whole path: replies are short and
still unambiguous. Knows nothing of items, messages or JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, TypeVar

from tasks.taxonomy import Taxonomy, join, split, truncate

T = TypeVar("T")

ELSEWHERE = "> elsewhere"
"""Stands for a label that the request does not offer: the item is then asked about with the whole list. No label of a
taxonomy is written so, because names hold no ">"."""

MARK = "(elsewhere)"  # what the teacher writes for it

NAMES_BELOW = 4  # of an inner label without an instruction, to say what it holds
EXPLAINED = (":", " =", " -", " ~")  # what may part a name from its instruction


@dataclass(frozen=True)
class Offer:
    """The labels of a request in file order, as `names` (what the teacher writes) and `labels` (what that means).

    `resolve` gives the label that a reply means, `ELSEWHERE` for one that is offered nowhere here, or None.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    resolve: Callable[[str], str | None]

    @cached_property
    def name_of(self) -> Mapping[str, str]:
        """Label to its name."""
        return dict(zip(self.labels, self.names, strict=True))

    @cached_property
    def longest_bytes(self) -> int:
        """Of a name, in UTF-8."""
        return max(len(name.encode()) for name in self.names)


def whole(taxonomy: Taxonomy) -> Offer:
    """Every leaf."""
    names = _names(taxonomy, taxonomy.leaves)
    return Offer(taxonomy.leaves, names, taxonomy.resolve)


def first_level(taxonomy: Taxonomy) -> Offer:
    """The labels of the first level; a reply that names a leaf below one of them means that one."""
    firsts = taxonomy.nodes[0]
    own = Taxonomy(("label",), firsts, {})

    def resolve(written: str) -> str | None:
        label = own.resolve(written)
        if label is None and (leaf := taxonomy.resolve(written)) is not None:
            return truncate(leaf, 1)
        return label

    return Offer(firsts, firsts, resolve)


def branch(taxonomy: Taxonomy, path: str) -> Offer:
    """The leaves below a label, "none of these" and `ELSEWHERE`; a leaf outside means elsewhere.

    Raises:
        ValueError: there is nothing below `path`.
    """
    below = tuple(leaf for leaf in taxonomy.leaves if leaf.startswith(join((path, ""))))
    if not below:
        raise ValueError(f"no label stands below {path!r}")
    leaves = below if taxonomy.other is None else (*below, taxonomy.other)
    own = Taxonomy(taxonomy.levels, leaves, {})
    mark = elsewhere(taxonomy)

    def resolve(written: str) -> str | None:
        label = own.resolve(written)
        if label is None and (_same(written, mark) or taxonomy.resolve(written) is not None):
            return ELSEWHERE
        return label

    return Offer((*leaves, ELSEWHERE), (*_names(taxonomy, leaves), mark), resolve)


def shortlist(taxonomy: Taxonomy) -> Offer:
    """Every leaf, of which each item is shown a few, and `ELSEWHERE`; a leaf that was not shown is an answer too."""
    mark = elsewhere(taxonomy)

    def resolve(written: str) -> str | None:
        label = taxonomy.resolve(written)
        # "None of these" can only be said with all labels in view.
        unseen = label == taxonomy.other if label is not None else _same(written, mark)
        return ELSEWHERE if unseen else label

    return Offer((*taxonomy.leaves, ELSEWHERE), (*_names(taxonomy, taxonomy.leaves), mark), resolve)


def elsewhere(taxonomy: Taxonomy) -> str:
    """What the teacher writes for `ELSEWHERE`: no name of the taxonomy."""
    taken = {name.casefold() for leaf in taxonomy.leaves for name in split(leaf)}
    mark = MARK
    while mark in taken:
        mark = f"({mark})"
    return mark


def _same(written: str, mark: str) -> bool:
    return " ".join(written.casefold().split()).strip("().") == mark.strip("()")


def _names(taxonomy: Taxonomy, leaves: Sequence[str]) -> tuple[str, ...]:
    """The last name of each leaf, or its whole path where any label of the taxonomy shares that name."""
    nodes = {
        join(split(leaf)[:depth]) for leaf in taxonomy.leaves for depth in range(1, len(split(leaf)) + 1)
    }
    bearers = Counter(split(node)[-1].casefold() for node in nodes)
    return tuple(split(leaf)[-1] if bearers[split(leaf)[-1].casefold()] == 1 else leaf for leaf in leaves)


def listing(taxonomy: Taxonomy, offer: Offer, pass_number: int, without: Collection[str] = ()) -> str:
    """The offered labels as text: a line with a dash for each, headings without one for what stands above them.

    Siblings are shuffled together, so that each pass (1-based) presents the labels in another order.
    """
    tree: dict[str, Any] = {}
    for label in offer.labels:
        if label != ELSEWHERE and label not in without:
            below = tree
            for name in split(label):
                below = below.setdefault(name, {})
    return "\n".join(_lines(tree, (), taxonomy, offer, pass_number))


def _lines(
    tree: dict[str, Any], above: tuple[str, ...], taxonomy: Taxonomy, offer: Offer, pass_number: int
) -> Iterator[str]:
    for name in in_order_of_pass(list(tree), pass_number, f"{taxonomy.version}:{join(above)}"):
        path = join((*above, name))
        indent, about = " " * len(above), line_of(taxonomy, offer, path)
        if tree[name]:
            yield f"{indent}{about}"
            yield from _lines(tree[name], (*above, name), taxonomy, offer, pass_number)
        else:
            yield f"{indent}- {about}"


def line_of(taxonomy: Taxonomy, offer: Offer, label: str) -> str:
    """How a label is written, followed by its instruction or, above others, by some of the names below it."""
    name = offer.name_of.get(label) or split(label)[-1]
    about = " ".join(taxonomy.about.get(label, "").split())
    if not about and label in offer.name_of and label not in taxonomy.leaf_index:
        below = dict.fromkeys(
            split(leaf)[len(split(label))] for leaf in taxonomy.leaves if leaf.startswith(join((label, "")))
        )
        about = f"such as {', '.join(list(below)[:NAMES_BELOW])}"
    return f"{name}{sign(taxonomy)} {about}" if about else name


def sign(taxonomy: Taxonomy) -> str:
    """What parts a name from its instruction: the first sign that no name is written with."""
    return next(
        (one for one in EXPLAINED if not any(f"{one} " in leaf for leaf in taxonomy.leaves)), EXPLAINED[0]
    )


def in_order_of_pass(values: Sequence[T], pass_number: int, seed: str) -> list[T]:
    """Shuffled; an even pass is the mirror image of the one before, and no pass has the order of an earlier one.

    The mirror image guarantees another order however few there are, and balances out a preference for what is
    read first or last. With fewer than three values there are only two orders.
    """
    orders: list[list[T]] = []
    for pair in range(1, (pass_number + 1) // 2 + 1):
        order = list(values)
        Random(f"{seed}:{pair}").shuffle(order)
        for _ in order:
            if order not in orders:
                break
            order = [*order[1:], order[0]]
        orders += [order, order[::-1]]
    return orders[pass_number - 1]
