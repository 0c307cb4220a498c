"""Cleaning that asks the teacher again, as the flow under the real engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from deployments.teacher_sim import TeacherServer
from tests.cleaning.test_suspects_for_review import TEXTS, WRONG


@pytest.mark.slow
def test_the_flow_cleans_asks_again_and_pays_once(
    prefect_server: None, tiny_project: Callable[..., Path]
) -> None:
    """Label, clean, ask about the suspects, decide: the second run of the flow asks nobody and says the same."""
    from flows.clean import clean
    from flows.label import label

    said: dict[str | bytes, list[str]] = {
        text: [WRONG.get(text, right), right] for text, right in TEXTS.items()
    }
    with TeacherServer(said) as teacher:
        file = tiny_project(
            gold=None,
            cleaning={"mode": "re-ask", "cap": 1.0, "reask_share": 0.5},
            encoder={"model": "hash:256"},
            teacher={"base_url": teacher.base_url, "passes": 1},
        )
        items = pl.DataFrame({"id": [str(row) for row in range(len(TEXTS))], "name": list(TEXTS)})
        items.write_parquet(file.parent / "items.parquet")
        labelled = label(str(file))
        assert (labelled.calls, labelled.labelled) == (len(TEXTS), len(TEXTS))
        cleaned = clean(str(file))
        assert cleaned.asked_again["asked"] > 0
        assert cleaned.asked_again["changed"] == cleaned.levels["category"]["overwritten"] > len(WRONG) // 2
        again = clean(str(file))
        assert (again.asked_again["calls"], again.levels) == (0, cleaned.levels)
        assert label(str(file)).calls == 0, "a second answer is no pass that labelling still wants"
