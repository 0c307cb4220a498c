"""What a request tells beside its items: the candidates of each, and decided examples that they share.

Knows how these are written, not how they were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from tasks.labeling.listing import Offer, in_order_of_pass, line_of
from tasks.labeling.requests import Item
from tasks.taxonomy import Taxonomy, truncate

BETWEEN = (" | ", " ; ", " / ")  # what may stand between the candidates of one of several items


def candidates_text(taxonomy: Taxonomy, offer: Offer, items: Sequence[Item], pass_number: int) -> str:
    """The candidates of one item, a line each with its instruction; of several, by the items' numbers.

    Of several items the instructions of all their candidates stand first, each once. In every pass the candidates
    stand in another order, so that the likest is not always the first.
    """
    orders = [in_order_of_pass(item.candidates, pass_number, item.key.hex()) for item in items]
    if len(items) == 1:
        return "\n".join(("Candidates:", *(f"- {line_of(taxonomy, offer, label)}" for label in orders[0])))
    together = dict.fromkeys(label for order in orders for label in order)
    explained = [f"- {line_of(taxonomy, offer, label)}" for label in together if taxonomy.about.get(label)]
    sign = next((one for one in BETWEEN if not any(one in name for name in offer.names)), BETWEEN[0])
    lists = [
        f"{number}: {sign.join(offer.name_of[label] for label in order)}"
        for number, order in enumerate(orders, start=1)
    ]
    return "\n".join(
        (*(["What some labels mean:", *explained] if explained else []), "Candidates by item:", *lists)
    )


def shared_examples(
    taxonomy: Taxonomy, offer: Offer, items: Sequence[Item], first_stage: bool, most: int
) -> list[tuple[str, str]]:
    """Decided texts with the names of their labels as this request offers them, at most so many.

    The items take turns: the best example of each, then the second best. None is an item of the request itself,
    none stands twice, and those whose label is not offered are left out.
    """
    shown: dict[str, str] = {}
    asked = {item.content for item in items}
    for turn in zip_longest(*(item.examples for item in items)):
        for text, label in (example for example in turn if example is not None):
            name = offer.name_of.get(truncate(label, 1) if first_stage else label)
            if name is not None and text not in asked and len(shown) < most:
                shown.setdefault(text, name)
    return list(shown.items())
