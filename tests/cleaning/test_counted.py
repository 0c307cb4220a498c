"""The teacher's errors are counted from what its passes said and on gold that decides nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from tasks.cleaning.counted import counted_by_passes, counted_on_gold
from tasks.project import Project, load_project
from tasks.records import text_key
from tasks.store import Store, open_store, schema
from tasks.student.judged import with_roles
from tests.conftest import TINY_LEAVES

LEAVES = [" > ".join(leaf) for leaf in TINY_LEAVES]
NAMES = [f"item {n}" for n in range(300)]


@pytest.fixture
def project(tiny_project: Callable[..., Path]) -> Project:
    return load_project(tiny_project(teacher={"passes": 2, "third_vote": True}))


@pytest.fixture
def store(project: Project) -> Iterator[Store]:
    opened = open_store(project.database_url, project.project)
    yield opened
    opened.close()


def say(store: Store, names: list[str], label: Callable[[int], str], number: int = 1) -> None:
    rows = [
        {
            "key": text_key(name),
            "pass": number,
            "label": label(n),
            "prompt_version": "v",
            "model": "m",
            "parameters": "p",
            "attempts": 1,
            "at": 1.0,
        }
        for n, name in enumerate(names)
    ]
    store.append(schema.answers, rows)


def test_two_that_differ_are_counted_though_a_third_vote_made_a_label_of_them(
    project: Project, store: Store
) -> None:
    """One item in five is told two labels, then a tie-break settles each: a fifth differs all the same."""
    say(store, NAMES, lambda n: LEAVES[n % 6])
    say(store, NAMES, lambda n: LEAVES[(n + (n % 5 == 0)) % 6], 2)
    say(store, NAMES[::5], lambda n: LEAVES[5 * n % 6], 3)
    say(store, ["somebody else's"], lambda _: LEAVES[0])
    say(store, ["somebody else's"], lambda _: LEAVES[1], 2)
    keys = pl.DataFrame({"key": [text_key(name) for name in NAMES]})
    upper, leaf = counted_by_passes(project, store, keys)
    assert leaf.items == 300
    assert leaf.share == pytest.approx(1 - 0.8**0.5)
    assert upper.share <= leaf.share


def test_one_pass_alone_counts_nothing(project: Project, store: Store) -> None:
    say(store, NAMES, lambda n: LEAVES[n % 6])
    keys = pl.DataFrame({"key": [text_key(name) for name in NAMES]})
    assert [counted.items for counted in counted_by_passes(project, store, keys)] == [0, 0]
    assert [counted.items for counted in counted_by_passes(project, store, keys.clear())] == [0, 0]


@pytest.mark.parametrize(("items", "counts"), [(300, False), (1200, True)])
def test_gold_that_certifies_or_gates_is_not_looked_at(
    project: Project, store: Store, items: int, counts: bool
) -> None:
    """Only what is set aside for the temperature: too little of it, and nothing is counted."""
    names = [f"golden {n}" for n in range(items)]
    gold = [
        {
            "id": name,
            "name": name,
            **dict(zip(("department", "category"), LEAVES[n % 6].split(" > "), strict=True)),
        }
        for n, name in enumerate(names)
    ]
    pl.DataFrame(gold).write_parquet(project.file.parent / "gold.parquet")
    roles = with_roles(pl.DataFrame({"key": [text_key(name) for name in names]}))
    aside = set(roles.filter(pl.col("role") == "temperature")["key"])
    assert (len(aside) > 0) is counts
    say(store, names, lambda n: LEAVES[n % 6 if text_key(names[n]) in aside else (n + 1) % 6])
    assert [(counted.wrong, counted.items) for counted in counted_on_gold(project, store)] == [
        (0, len(aside))
    ] * 2
