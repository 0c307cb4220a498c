"""Failed steps: tried again where waiting may help, with longer and longer pauses, and never otherwise."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import pytest
from prefect import Task, flow, task
from prefect.states import Failed

from tasks import errors
from tasks.errors import (
    BusyError,
    CacheError,
    ConfigError,
    DamagedPartError,
    EncoderError,
    FatalTeacherError,
    InputError,
    RegistryError,
    StoreError,
    TrainingError,
    TransientTeacherError,
)
from tasks.retries import AGAIN, PAUSES_SECONDS, worth_another_try
from tasks.store import open_store

FOR_ANOTHER_TRY = [
    StoreError("sqlite:///x", "database is locked", "Wait.", transient=True),
    CacheError("s3://b", "cannot be listed", "Is it within reach?", transient=True),
    EncoderError("openai:m", "did not answer", "Wait.", transient=True),
    RegistryError("http://127.0.0.1:5000", "connection refused"),
    TransientTeacherError("503", "busy"),
]
FOR_A_PERSON = [
    StoreError("sqlite:///x", "has schema '9', unknown here", "Upgrade."),
    CacheError("x", "holds vectors of 3 dimensions", "Pin it."),
    DamagedPartError("x", "is cut"),
    EncoderError("m", "is no model", "Name another."),
    ConfigError("x.yaml", "unknown key", "Take it out."),
    InputError("x.csv", "is empty", "Fill it."),
    TrainingError("there is nothing to learn from", "Label some."),
    BusyError("tiny", "somebody", "noon"),
    FatalTeacherError("402", "no money"),
    ValueError("a mistake in the code"),
]


@pytest.mark.parametrize("error", FOR_ANOTHER_TRY, ids=lambda error: type(error).__name__)
def test_what_may_pass_is_tried_again_and_said(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """The words of the error stand in the log before the wait."""
    with caplog.at_level(logging.WARNING, "flywheel"):
        assert worth_another_try(None, None, Failed(data=error))
    assert str(error) in caplog.text


@pytest.mark.parametrize("error", FOR_A_PERSON, ids=str)
def test_what_would_fail_the_same_way_is_not(error: Exception) -> None:
    """A mistake in a file, a missing champion, a bug: the run fails at once."""
    assert not worth_another_try(None, None, Failed(data=error))


def test_a_database_that_is_away_is_worth_another_try(tmp_path: Path) -> None:
    """Nobody at the port is; a URL that is none is not."""
    with pytest.raises(StoreError) as away:
        open_store("postgresql+psycopg://a:b@127.0.0.1:9/c", "tiny")
    with pytest.raises(StoreError) as wrong:
        open_store("mysql://a:b@127.0.0.1/c", "tiny")
    assert (away.value.transient, wrong.value.transient) == (True, False)


def test_every_step_but_the_rollback_is_tried_again() -> None:
    """A rollback must not go two versions back; all other steps may be done again."""
    rooms = ("cleaning", "embedding", "labeling", "monitoring", "promotion", "routing", "student")
    modules = [importlib.import_module(f"tasks.{room}.steps") for room in rooms]
    steps = {one.name: one for module in modules for one in vars(module).values() if isinstance(one, Task)}
    assert len(steps) > 20
    once = {name for name, step in steps.items() if step.retry_condition_fn is not worth_another_try}
    assert once == {"roll back"}
    assert list(PAUSES_SECONDS) == sorted(PAUSES_SECONDS)
    assert {step.retries for name, step in steps.items() if name not in once} == {len(PAUSES_SECONDS)}


def test_each_error_of_the_tree_says_whether_waiting_helps() -> None:
    """`transient` is there on all of them, so the policy needs no list of types."""
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(isinstance(kind.transient, bool) for kind in tree)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_orchestrator_counts_and_gives_up(prefect_server: None) -> None:
    """Under the real engine: three more attempts for what may pass, none for what will not."""
    attempts: list[str] = []

    @task(**(AGAIN | {"retry_delay_seconds": 0}))
    def step(what: str) -> None:
        attempts.append(what)
        raise StoreError("sqlite:///x", what, "Wait.", transient=what == "is locked")

    @flow(name="of a step that fails")
    def failing(what: str) -> None:
        step(what)

    for what in ("is locked", "is no database"):
        with pytest.raises(StoreError, match=what):
            failing(what)
    assert attempts == ["is locked"] * (1 + len(PAUSES_SECONDS)) + ["is no database"]
