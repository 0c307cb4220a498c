"""Which items are asked about, in which order."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling.selection import choose
from tasks.records import text_key

KEYS = [text_key(str(i)) for i in range(40)]
ITEMS = pl.DataFrame({"item_id": range(40), "key": KEYS}, schema={"item_id": pl.Int64, "key": pl.Binary})
PASSED = {"key": pl.Binary, "pass": pl.Int64}
NONE = pl.DataFrame(schema=PASSED)


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
