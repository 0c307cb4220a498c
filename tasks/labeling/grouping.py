"""Which items stand together in a request: groups of one pass, and of one branch where stages follow each other.

Takes requests of one item each and hands out requests of several, in streams: no stage waits for another to end,
and no more than a few groups a pass and branch are held. Two passes draw their groups apart from each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from random import Random

from tasks.labeling.prompts import WHOLE
from tasks.labeling.requests import Item, Request

GROUPS_SHUFFLED = 8  # groups are drawn out of so many times their size
ITEMS_SHUFFLED = 400  # ... or, where groups are large, out of so many items, two groups at least

LAST_STAGE = 2

Place = tuple[int, str | None]


class Grouping:
    """Hands out requests as they are ready; lives in one event loop.

    Args:
        singles: requests of one item without a branch, consumed as needed.
        items_per_call: the most items of one request.
        seed: of the groups; another one for each pass and branch is made of it.
        follows: whether answers lead to further requests about their items, which come back through `follow`.
        begun: the branch that an item has reached in a pass before, if it has.
    """

    def __init__(
        self,
        singles: Iterator[Request],
        items_per_call: int = 1,
        seed: int = 0,
        follows: bool = False,
        begun: Callable[[bytes, int], str | None] | None = None,
    ) -> None:
        self._singles, self._size, self._seed = singles, items_per_call, seed
        self._follows, self._begun = follows, begun
        self._window = max(2, min(GROUPS_SHUFFLED, ITEMS_SHUFFLED // items_per_call)) * items_per_call
        self._pools: dict[Place, list[Item]] = {}
        self._ready: deque[Request] = deque()
        self._drawn = 0
        # The stage of each item that was handed out and may lead to another request, by key and pass.
        self._under_way: dict[tuple[bytes, int], int] = {}
        self._exhausted = False

    def take(self) -> Request | None:
        """The next request, None when there is none now: later there may be, while others are on their way."""
        while not self._ready:
            single = None if self._exhausted else next(self._singles, None)
            if single is not None:
                (item,), number = single.items, single.pass_number
                self._add(item, (number, self._begun(item.key, number) if self._begun is not None else None))
                continue
            self._exhausted = True
            if not self._draw_rest():
                return None
        request = self._ready.popleft()
        if self._follows and (stage := _stage(request.branch)) < LAST_STAGE:
            self._under_way.update({(item.key, request.pass_number): stage for item in request.items})
        return request

    def follow(self, item: Item, pass_number: int, branch: str | None) -> None:
        """An item that was handed out has come to its next branch; None when there is nothing more to ask."""
        self._under_way.pop((item.key, pass_number), None)
        if branch is not None:
            self._add(item, (pass_number, branch))

    def _add(self, item: Item, place: Place) -> None:
        if self._size == 1:
            self._ready.append(Request((item,), *place))
            return
        pool = self._pools.setdefault(place, [])
        pool.append(item)
        if len(pool) == self._window:
            self._draw(place, self._pools.pop(place))

    def _draw_rest(self) -> bool:
        """Draw groups of what is left of the first stage to which nothing more can come; whether there was any."""
        for stage in range(LAST_STAGE + 1):
            places = [place for place in self._pools if _stage(place[1]) == stage]
            for place in places:
                self._draw(place, self._pools.pop(place))
            if places or stage in self._under_way.values():
                return bool(places)
        return False

    def _draw(self, place: Place, pool: list[Item]) -> None:
        self._drawn += 1
        Random(f"{self._seed}:{place}:{self._drawn}").shuffle(pool)
        for first in range(0, len(pool), self._size):
            self._ready.append(Request(tuple(pool[first : first + self._size]), *place))


def _stage(branch: str | None) -> int:
    """0 of a first stage or a shortlist, 1 of a branch, 2 of the whole list, after which nothing follows."""
    return 0 if branch is None else LAST_STAGE if branch == WHOLE else 1


def smaller(request: Request, items: tuple[Item, ...]) -> list[Request]:
    """Requests about some of a request's items, of half its size at most: in the end each item is alone."""
    size = max(1, len(request.items) // 2)
    return [
        Request(items[first : first + size], request.pass_number, request.branch)
        for first in range(0, len(items), size)
    ]
