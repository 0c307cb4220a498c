"""Against the simulated teacher at its worst: everything is labelled in the end, and every payment is known."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from deployments.teacher_sim import TeacherServer
from tasks.labeling.labelling import label_items
from tasks.store import Store, schema
from tests.labeling.scripted import HOSES, KETTLES, NO_KEYS, how, put_texts


@pytest.mark.parametrize("structured", [True, False])
def test_an_unreliable_teacher_labels_everything_in_the_end(sqlite_store: Store, structured: bool) -> None:
    texts = [f"product number {i:03d}" for i in range(150)]
    put_texts(sqlite_store, texts)
    answers = {text: [KETTLES, HOSES if i % 5 == 0 else KETTLES] for i, text in enumerate(texts)}
    with TeacherServer(
        answers, rate_limit_rate=0.05, error_rate=0.1, garbage_rate=0.1, api_key="sk-very-secret-0123456789"
    ) as server:
        asked = how(server.base_url, concurrency=16, max_attempts=8, structured=structured)
        first = label_items(sqlite_store, asked, 2, None, NO_KEYS, 1)
        again = label_items(sqlite_store, asked, 2, None, NO_KEYS, 2)
        paid = server.stats()["paid"]
    assert paid == first.calls + again.calls
    assert first.labelled + first.disagreed + first.unlabelled_left == 150
    assert again.unlabelled_left <= first.unlabelled_left <= 5
    assert first.disagreed >= 28
    kept = sqlite_store.scalar(
        select(func.count()).select_from(schema.calls).where(schema.calls.c.reply.is_not(None))
    )
    assert kept == paid
