"""Which items are asked about, in which order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.labeling import selection
from tasks.labeling.acquisition import Sight
from tasks.labeling.selection import Acquisition, Chosen
from tasks.records import text_key

KEYS = [text_key(str(i)) for i in range(40)]
ITEMS = pl.DataFrame({"item_id": range(40), "key": KEYS}, schema={"item_id": pl.Int64, "key": pl.Binary})
PASSED = {"key": pl.Binary, "pass": pl.Int64}
NONE = pl.DataFrame(schema=PASSED)


def choose(
    items: pl.DataFrame,
    answers: pl.DataFrame,
    excluded: pl.DataFrame,
    passes: int,
    limit: int | None = None,
    seed: int = 0,
    acquisition: Acquisition | None = None,
    may_stop: Callable[[pl.DataFrame], bool] | None = None,
) -> Chosen:
    """What is chosen of items (item_id, key), told by their keys."""
    owed = acquisition.owed if acquisition else None
    lacks = selection.lacking(items, answers, excluded, passes, owed)
    chosen = selection.choose(lacks, passes, limit, seed, acquisition, may_stop)
    due, wanted, why = (
        frame.join(ITEMS, on="item_id", maintain_order="left")
        for frame in (chosen.due, chosen.wanted, chosen.why)
    )
    return Chosen(due, wanted, why.select("key", "why"))


@settings(deadline=None)
@given(
    st.sets(st.tuples(st.sampled_from(KEYS), st.integers(1, 3))),
    st.sets(st.sampled_from(KEYS)),
    st.integers(1, 3),
    st.none() | st.integers(1, 50),
)
def test_what_is_asked_is_exactly_what_is_missing(
    answered: set[tuple[bytes, int]], excluded: set[bytes], passes: int, limit: int | None
) -> None:
    answers = pl.DataFrame(sorted(answered), schema=PASSED, orient="row")
    barred = pl.DataFrame({"key": sorted(excluded)}, schema={"key": pl.Binary})
    chosen = choose(ITEMS, answers, barred, passes, limit)
    due = set(chosen.due.select("key", "pass").iter_rows())
    wanted = {(key, number) for key in KEYS for number in range(1, passes + 1)}
    missing = {pair for pair in wanted - answered if pair[0] not in excluded}
    assert chosen.due.height == len(due)
    if limit is None:
        assert due == missing
        assert set(chosen.wanted["key"]) == set(KEYS) - excluded
    else:
        keys = {key for key, _ in missing}
        assert chosen.items == min(limit, len(keys))
        assert due == {pair for pair in missing if pair[0] in set(chosen.wanted["key"])}
        begun = {key for key in keys if any((key, n) in answered for n in range(1, passes + 1))}
        taken = set(chosen.wanted["key"])
        assert begun <= taken or taken <= begun


def test_the_order_is_the_seeds_and_not_the_arrivals() -> None:
    orders = [choose(ITEMS, NONE, NONE, 1, 10, seed).wanted["key"].to_list() for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != KEYS[:10]


MIX = {"uncertain": 0.5, "diverse": 0.25, "random": 0.25}


def acquisition(owed: list[int], looks: list[list[bytes]] | None = None) -> Acquisition:
    """Everything has a vector, and the smaller an item's number the less sure the student is of it."""

    def look(items: pl.DataFrame) -> Sight:
        keys = [KEYS[number] for number in items["item_id"]]
        if looks is not None:
            looks.append(keys)
        numbers = [KEYS.index(key) for key in keys]
        vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)[numbers]
        return Sight(np.arange(len(keys)), vectors, vectors[:0], np.array(numbers, np.float32))

    return Acquisition(MIX, ITEMS[owed].select("key"), look)


def never_asked(items: pl.DataFrame) -> Sight:
    pytest.fail("embeddings were read where the order does not matter")


def test_what_is_begun_or_owed_comes_first_then_the_mix() -> None:
    """And it is said of each item what it is asked for."""
    begun = pl.DataFrame([(KEYS[30], 1)], schema=PASSED, orient="row")
    looks: list[list[bytes]] = []
    chosen = choose(ITEMS, begun, NONE, 2, 11, acquisition=acquisition([31, 32], looks))
    why = dict(chosen.why.iter_rows())
    assert set(chosen.wanted["key"][:3]) == {KEYS[30], KEYS[31], KEYS[32]}
    assert [why[key] for key in chosen.wanted["key"]][:3] == ["owed"] * 3
    told = list(why.values())
    assert [told.count(kind) for kind in ("owed", "uncertain", "diverse", "random")] == [3, 4, 2, 2]
    assert {KEYS.index(key) for key, kind in why.items() if kind == "uncertain"} <= set(range(16))
    assert len(looks) == 1
    assert not set(looks[0]) & {KEYS[30], KEYS[31], KEYS[32]}
    assert chosen.due["key"].unique(maintain_order=True).to_list() == chosen.wanted["key"].to_list()
    assert chosen.due.filter(pl.col("key") == KEYS[30])["pass"].to_list() == [2]


@settings(deadline=None)
@given(st.sets(st.integers(0, 39)), st.integers(1, 45), st.integers(0, 3))
def test_whatever_decides_the_order_the_same_requests_are_missing(
    owed: set[int], limit: int, seed: int
) -> None:
    chosen = choose(ITEMS, NONE, NONE, 2, limit, seed, acquisition(sorted(owed)))
    assert chosen.items == chosen.why.height == min(limit, 40)
    assert chosen.due.height == 2 * chosen.items
    taken = set(chosen.wanted["key"])
    mine = {KEYS[number] for number in owed}
    assert mine <= taken or taken <= mine


def test_where_all_are_asked_or_all_that_are_asked_are_owed_nothing_is_looked_up() -> None:
    blind = Acquisition(MIX, ITEMS[[4, 5, 6]].select("key"), never_asked)
    everything = choose(ITEMS, NONE, NONE, 1, None, acquisition=blind, may_stop=lambda due: False)
    assert everything.why["why"].cast(pl.String).value_counts().sort("why").rows() == [
        ("all", 37),
        ("owed", 3),
    ]
    assert everything.why["key"][:3].sort().to_list() == sorted(KEYS[4:7])
    assert choose(ITEMS, NONE, NONE, 1, 40, acquisition=blind).items == 40
    owed_only = choose(ITEMS, NONE, NONE, 1, 3, acquisition=blind)
    assert owed_only.why["why"].to_list() == ["owed"] * 3
    assert choose(ITEMS[:0], NONE, NONE, 1, 3, acquisition=blind).items == 0


def test_a_run_that_may_be_stopped_has_the_mix_from_its_beginning_on() -> None:
    """Without a limit everything is in the order, and each beginning of it has been chosen well."""
    seen: list[int] = []

    def may_stop(due: pl.DataFrame) -> bool:
        seen.append(due.height)
        return True

    chosen = choose(ITEMS, NONE, NONE, 2, None, acquisition=acquisition([]), may_stop=may_stop)
    assert seen == [80]
    assert chosen.items == chosen.wanted.height == 40
    first = chosen.why["why"].to_list()[:8]
    assert [first.count(kind) for kind in ("uncertain", "diverse", "random")] == [4, 2, 2]


def test_without_anything_known_a_limit_takes_them_at_random() -> None:
    chosen = choose(ITEMS, NONE, NONE, 1, 10)
    assert chosen.why["why"].to_list() == ["random"] * 10
    blind = Acquisition(MIX, NONE.select("key"), lambda items: None)
    assert choose(ITEMS, NONE, NONE, 1, 10, acquisition=blind).wanted["key"].to_list() == (
        chosen.wanted["key"].to_list()
    )
