"""When the first requests all fail alike, the project is at fault and not so many items.

A refusal costs nothing and may come from a wrong address, so the first ones are withheld until something else has
happened: only then are they the items' own.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

SAME_FAILURES = 20  # so many first requests failing alike are a mistake in the project, not in the items

Refused = TypeVar("Refused")


class FirstFailures(Generic[Refused]):
    """Counts what has happened so far; `proved` once anything but one and the same failure did."""

    def __init__(self) -> None:
        self.proved = False
        self._alike: Counter[str] = Counter()
        self._withheld: list[Refused] = []

    def succeeded(self) -> None:
        """Something was answered."""
        self.proved = True

    def failed(self, error_class: str) -> bool:
        """One more request has failed; True when this many have, all alike, and nothing else has happened."""
        self._alike[error_class] += 1
        self.proved = self.proved or len(self._alike) > 1
        return not self.proved and self._alike[error_class] >= SAME_FAILURES

    def withhold(self, refused: Refused) -> None:
        """Keep a refusal back until more is known."""
        self._withheld.append(refused)

    def released(self) -> list[Refused]:
        """The refusals withheld so far, which are not kept back any longer."""
        withheld, self._withheld = self._withheld, []
        return withheld
