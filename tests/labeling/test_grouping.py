"""Who stands beside whom: everybody is asked about once in each pass, never in the same company, in streams."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling.grouping import Grouping, smaller
from tasks.labeling.prompts import WHOLE
from tasks.labeling.requests import Item, Request


def item(number: int) -> Item:
    return Item(number.to_bytes(16, "big"), f"item {number}")


def singles(items: int, passes: int = 2) -> list[Request]:
    return [Request((item(number),), one) for number in range(items) for one in range(1, passes + 1)]


def drained(grouping: Grouping) -> list[Request]:
    return list(iter(grouping.take, None))


@given(st.integers(0, 300), st.integers(1, 3), st.integers(1, 40), st.integers(0, 5))
def test_everybody_is_asked_about_once_in_each_pass(items: int, passes: int, size: int, seed: int) -> None:
    requests = drained(Grouping(iter(singles(items, passes)), size, seed))
    asked = Counter((one.key, request.pass_number) for request in requests for one in request.items)
    assert asked == Counter((item(n).key, one) for n in range(items) for one in range(1, passes + 1))
    assert all(1 <= len(request.items) <= size for request in requests)
    # No more calls than a last group that is not full makes necessary.
    assert len(requests) <= passes * (items // size + 1)


def test_two_passes_share_hardly_any_company() -> None:
    """Beside whom an item stands may sway its answer: the passes are independent in that, too."""
    requests = drained(Grouping(iter(singles(800)), 10))
    beside = [
        {pair for request in requests if request.pass_number == one for pair in pairs_in(request)}
        for one in (1, 2)
    ]
    assert len(beside[0] & beside[1]) < 0.2 * len(beside[0])
    groups = [
        {frozenset(one.key for one in request.items) for request in requests if request.pass_number == number}
        for number in (1, 2)
    ]
    assert not groups[0] & groups[1]


def pairs_in(request: Request) -> set[frozenset[bytes]]:
    return {frozenset(pair) for pair in combinations((one.key for one in request.items), 2)}


def test_the_same_seed_gives_the_same_groups() -> None:
    first, again, other = (drained(Grouping(iter(singles(100)), 7, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_no_more_is_read_than_a_few_groups() -> None:
    """However many items there are, those waiting for company are few."""
    numbers = count()
    grouping = Grouping((Request((item(number),), 1) for number in numbers), 10)
    grouping.take()
    assert next(numbers) <= 80


def test_one_item_a_call_goes_straight_through() -> None:
    requests = singles(5)
    assert drained(Grouping(iter(requests))) == requests


@given(st.integers(0, 200), st.integers(1, 12), st.randoms(use_true_random=False))
def test_in_stages_everybody_comes_to_its_branch_and_to_an_end(items: int, size: int, dice: Random) -> None:
    """Whatever order the answers come in, and whoever is told to look elsewhere: nothing is left in a pool."""
    grouping = Grouping(iter(singles(items, 1)), size, follows=True)
    seen: dict[bytes, list[str | None]] = {}
    under_way: list[Request] = []
    while True:
        request = grouping.take()
        if request is not None:
            under_way.append(request)
            if dice.random() < 0.7:
                continue
        if not under_way:
            break
        done = under_way.pop(dice.randrange(len(under_way)))
        for one in done.items:
            path = seen.setdefault(one.key, [])
            path.append(done.branch)
            if done.branch is None:
                branch = dice.choice(["x", "y", None])
            else:
                branch = WHOLE if done.branch != WHOLE and dice.random() < 0.3 else None
            grouping.follow(one, 1, branch)
    assert grouping.take() is None
    assert set(seen) == {item(number).key for number in range(items)}
    for path in seen.values():
        assert path in ([None], [None, "x"], [None, "y"], [None, "x", WHOLE], [None, "y", WHOLE])


def test_what_is_begun_goes_on_where_it_was() -> None:
    """An item whose first stage is in the ledger is not asked about it again."""
    grouping = Grouping(
        iter(singles(4, 1)), 2, follows=True, begun=lambda key, _: "x" if key == item(2).key else None
    )
    first = drained(grouping)
    assert [request.branch for request in first] == [None, None]
    for request in first:
        for one in request.items:
            grouping.follow(one, 1, "x")
    second = drained(grouping)
    assert [request.branch for request in second] == ["x", "x"]
    assert {one.key for request in second for one in request.items} == {item(n).key for n in range(4)}


@pytest.mark.parametrize(
    ("asked", "bad", "sizes"), [(10, 10, [5, 5]), (10, 3, [3]), (10, 7, [5, 2]), (2, 2, [1, 1])]
)
def test_who_is_asked_again_stands_in_smaller_company(asked: int, bad: int, sizes: list[int]) -> None:
    request = Request(tuple(item(number) for number in range(asked)), 2, "x")
    parts = smaller(request, request.items[:bad])
    assert [len(part.items) for part in parts] == sizes
    assert sum((part.items for part in parts), ()) == request.items[:bad]
    assert {(part.pass_number, part.branch) for part in parts} == {(2, "x")}
