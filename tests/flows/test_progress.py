"""How far a job is stands on its run's page while it works, and costs the job nothing that it would notice."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.context import FlowRunContext

from flows.progress import progress_on_page
from tasks.monitoring.progress import heard, listening, progress_of

PATIENCE_SECONDS = 60.0


def bars() -> dict[str, tuple[float, str]]:
    """Key to share done (per cent) and words, of the progress artifacts of the run that is on."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[context.flow_run.id]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ours)
    assert all(one.type == "progress" for one in found)
    return {str(one.key): (float(str(one.data)), str(one.description)) for one in found}


def eventually(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


@pytest.mark.slow
def test_bars_move_while_the_job_works_and_end_where_it_ended(prefect_server: None) -> None:
    """A bar a kind of work, with its cost; the last word is kept; work over before the first look leaves no bar."""

    @flow(name="works")
    def works() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        with progress_on_page("tiny-label", every_seconds=0.1):
            told, short = progress_of("asking the teacher"), progress_of("tidying up")
            assert told is not None
            assert short is not None
            short(3, 3)
            told(30, 120, 0.5)
            began = eventually(bars)
            told(60, 120, 1.0)
            moved = eventually(lambda: now if (now := bars()) != began else None)
            told(90, 120, 1.5)
        return began, moved, bars()

    began, moved, ended = works()
    key = "tiny-label-asking-the-teacher"
    assert began == {key: (25.0, "asking the teacher: 30 of 120 (25%), 0.5000 USD")}
    assert moved[key][0] == 50.0
    assert ended.keys() == {key}
    share, said = ended[key]
    assert share == 75.0
    assert said.startswith("asking the teacher: 90 of 120 (75%), ")
    assert said.endswith(" left, 1.5000 USD")


def test_without_a_run_nobody_listens() -> None:
    """On no page, and with no terminal, there is nothing to call; what shows itself is called as before."""
    with progress_on_page("tiny-label"):
        assert heard("labelling", None) is None
        shown: list[tuple[int, ...]] = []
        show = heard("embedding", lambda *told: shown.append(told))
        assert show is not None
        show(1, 2)
    assert shown == [(1, 2)]


def test_a_listener_hears_what_is_begun_while_it_listens() -> None:
    """Beside what shows itself, and not a word of what begins before or after."""
    words: list[tuple[Any, ...]] = []
    shown: list[tuple[int, ...]] = []
    before = heard("before", lambda *told: None)
    with listening(lambda *word: words.append(word)):
        show = heard("embedding", lambda *told: shown.append(told))
    assert before is not None
    assert show is not None
    before(1, 2)
    show(1, 2)
    assert words == [("embedding", 1, 2)]
    assert shown == [(1, 2)]
    assert heard("after", None) is None
