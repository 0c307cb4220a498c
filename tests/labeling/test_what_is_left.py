"""What a run leaves behind is told: items without a valid answer, rejected rows, half of a new prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl

from tasks.labeling.labelling import label_items
from tasks.labeling.steps import take_in_items
from tasks.project import load_project
from tasks.records import Labelled, text_key
from tasks.store import Store
from tasks.store.labels import append_labels, effective_labels
from tests.labeling.scripted import KETTLES, KNIVES, NO_KEYS, Said, ScriptedTeacher, how, put_texts, says

TEXTS = [f"product {number}" for number in range(12)]


def _label(store: Store, asked: object, **more: object) -> Labelled:
    settings = {"passes": 2, "budget_usd": None, "gold_keys": NO_KEYS, "run_id": 1} | more
    return label_items(store, asked, **settings)  # type: ignore[arg-type]


def _two_get_no_answer(item: str, number: int, asked: int) -> Said:
    return says("Toys > Dolls" if item in ("product 3", "product 5") else KETTLES)


def test_items_that_were_given_up_are_told_by_every_later_run_about_them(store: Store) -> None:
    """As such, not as something that running again would help; and nobody asks about them again."""
    put_texts(store, TEXTS)
    with ScriptedTeacher(_two_get_no_answer) as teacher:
        asked = how(teacher.base_url)
        first = _label(store, asked, limit=12, so_far=True)
        sent = teacher.requests
        again = _label(store, asked, limit=0, so_far=True)
        about_none = _label(store, asked, limit=0)
        assert teacher.requests == sent
    assert (first.labelled, first.unlabelled_left, first.no_answer, first.written) == (10, 2, 2, 10)
    assert (again.items, again.unlabelled_left, again.no_answer, again.written) == (0, 2, 2, 0)
    assert again.in_all == first.in_all == {"labelled": 10, "disagreed": 0, "invalid": 2}
    assert (about_none.unlabelled_left, about_none.no_answer) == (0, 0)


def test_what_a_person_decided_since_is_not_left(store: Store) -> None:
    put_texts(store, TEXTS)
    with ScriptedTeacher(_two_get_no_answer) as teacher:
        asked = how(teacher.base_url)
        _label(store, asked, limit=12, so_far=True)
        append_labels(store, [(text_key("product 3"), KNIVES, "human")], 2)
        again = _label(store, asked, limit=0, so_far=True)
    assert (again.unlabelled_left, again.no_answer) == (1, 1)


def test_half_a_new_prompt_takes_away_no_label_that_all_passes_agreed_on(store: Store) -> None:
    """The budget ends between the passes under another prompt: that item keeps its consensus until the second."""
    put_texts(store, TEXTS)
    with ScriptedTeacher(lambda item, number, asked: says(KETTLES)) as teacher:
        before = how(teacher.base_url)
        _label(store, before)
    with ScriptedTeacher(lambda item, number, asked: says(KNIVES)) as teacher:
        after = replace(how(teacher.base_url), concurrency=1, model="another-model")
        stopped = _label(store, after, budget_usd=0.00084 * 5 + 0.0001)
        labels = effective_labels(store)
        assert stopped.stopped is not None
        assert stopped.calls % 2, "the last item has one answer of two"
        assert set(labels["source"]) == {"consensus"}
        assert labels.filter(pl.col("label") == KNIVES).height == stopped.calls // 2
        assert _label(store, after).labelled
    assert set(effective_labels(store).select("label", "source").iter_rows()) == {(KNIVES, "consensus")}


def test_rejected_rows_are_told_again_while_they_stand_in_the_file(
    tiny_project: Callable[..., Path],
) -> None:
    """The second run reads nothing of an unchanged file, but its rows are as lost as they were."""
    file = tiny_project()
    items = file.parent / "items.parquet"
    good = pl.read_parquet(items)
    blank = good.head(2).with_columns(id=pl.Series(["b1", "b2"]), name=pl.lit("  "))
    pl.concat([good, blank]).write_parquet(items)
    project = load_project(file)
    first, second = take_in_items.fn(project, 1), take_in_items.fn(project, 2)
    assert (first.rejected, second.rejected) == ({"empty text": 2}, {"empty text": 2})
    assert second.rows == 0
    good.write_parquet(items)
    assert take_in_items.fn(project, 3).rejected == {}
