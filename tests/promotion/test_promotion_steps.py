"""Promoting, refusing, forcing, asking, rolling back and deleting, in a real registry: what stands there afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from tasks.errors import ConfigError, TrainingError
from tasks.project import Project, load_project
from tasks.promotion.approval import standing
from tasks.promotion.gate_in_words import comparison
from tasks.promotion.registry import Registry
from tasks.promotion.steps import (
    answer_challenger,
    give_up_question,
    note_answer,
    note_question,
    open_question,
    promote_challenger,
    question_of_another,
    rollback_champion,
)
from tasks.promotion.tracking import registry_of
from tests.promotion.shop import a_shop, a_version

pytestmark = pytest.mark.slow

Shop = Callable[..., Project]


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for the module: making one takes longer than a test."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def shop(tmp_path: Path, tracking_uri: str) -> Shop:
    """`shop(name, **promotion)` is a tiny project with a registered model of its own."""

    def make(name: str, **promotion: Any) -> Project:
        return a_shop(tmp_path / name, name, mlflow={"tracking_uri": tracking_uri}, promotion=promotion)

    return make


def folder_of(registry: Registry, version: str) -> Path:
    """Where a version's files lie."""
    from mlflow import MlflowClient

    client = MlflowClient(registry.tracking_uri)
    source = client.get_model_version(registry.model_name, version).source
    model = client.get_logged_model(source.removeprefix("models:/"))
    return Path(unquote(urlparse(model.artifact_location).path))


def test_the_first_version_serves_and_a_worse_one_is_refused_with_its_numbers(shop: Shop) -> None:
    """The refusal stands on the version: verdict, reasons, whom it was compared with, and a readable line a sample."""
    project = shop("refusing")
    registry, first = registry_of(project), a_version(project)
    assert promote_challenger.fn(project).promoted
    assert registry.alias("champion") == first
    assert registry.alias("challenger") is None
    assert registry.tags(first)["gate"] == "promoted"
    [line] = registry.history()
    assert f"champion none -> {first}, promoted: there is no champion yet" in line

    worse = a_version(project, wrong=True)
    outcome = promote_challenger.fn(project)
    assert not outcome.promoted
    assert (registry.alias("champion"), registry.alias("challenger")) == (first, worse)
    tags = registry.tags(worse)
    assert (tags["gate"], tags["compared_with"]) == ("refused", first)
    assert "on gold accuracy changes by -" in tags["gate_reasons"]
    assert "items: 100.0% to 0.0%, change -100.0" in tags["gate gold"]
    assert tags["gate coverage"].startswith("100.0% to 100.0% of gold")
    page = comparison(outcome)
    assert f"## Version {worse} against version {first}, the champion: refused" in page
    assert "| right on gold," in page
    assert len(registry.history()) == 1, "a refusal moves nothing"


def test_force_serves_what_was_refused_and_says_why(shop: Shop) -> None:
    """The gate's numbers stay beside the reason that went against them, on the version and in the history."""
    project = shop("forcing")
    registry = registry_of(project)
    first = a_version(project)
    promote_challenger.fn(project)
    worse = a_version(project, wrong=True)
    outcome = promote_challenger.fn(project, force_reason="a fire drill")
    assert outcome.promoted
    assert outcome.reasons[-1] == "forced: a fire drill"
    tags = registry.tags(worse)
    assert (tags["gate"], tags["forced"], tags["predecessor"]) == ("promoted", "a fire drill", first)
    assert "accuracy changes" in tags["gate_reasons"]
    assert "forced: a fire drill" in registry.history()[0]


def test_a_champion_whose_files_are_gone_can_be_followed_by_force_only(shop: Shop) -> None:
    """Nothing to compare with is a refusal in words, not a crash; with a reason the next version serves."""
    project = shop("lost")
    registry = registry_of(project)
    first = a_version(project)
    promote_challenger.fn(project)
    second = a_version(project)
    shutil.rmtree(folder_of(registry, first))
    refused = promote_challenger.fn(project)
    assert not refused.promoted
    assert "the champion does not load" in refused.reasons[0]
    assert "--force REASON" in refused.reasons[1]
    assert registry.alias("champion") == first
    assert promote_challenger.fn(project, force_reason="its files are gone").promoted
    assert registry.alias("champion") == second
    with pytest.raises(TrainingError, match=f"version {first} cannot be fetched"):
        rollback_champion.fn(project)
    assert registry.alias("champion") == second, "a rollback to nothing leaves the champion"


def test_a_challenger_that_does_not_load_serves_by_no_force(shop: Shop) -> None:
    """Force overrules a judgement; what cannot answer is not a matter of judgement."""
    project = shop("broken")
    registry, version = registry_of(project), a_version(project)
    shutil.rmtree(folder_of(registry, version))
    outcome = promote_challenger.fn(project, force_reason="please")
    assert not outcome.promoted
    assert "the challenger does not load" in outcome.reasons[0]
    assert registry.alias("champion") is None


@pytest.mark.parametrize(("most_ms", "promoted"), [(1e-6, False), (60_000, True)])
def test_a_latency_limit_is_measured_here(shop: Shop, most_ms: float, promoted: bool) -> None:
    """No student answers in a nanosecond and any in a minute; what was measured stands on the version."""
    project = shop(f"slow-{promoted}".lower(), max_latency_ms=most_ms)
    version = a_version(project)
    outcome = promote_challenger.fn(project)
    assert outcome.promoted is promoted
    assert 0 < outcome.numbers["latency"]["p95_ms"] < 60_000
    assert "(95th percentile), allowed" in registry_of(project).tags(version)["gate latency"]


def test_rollback_gives_back_alias_and_policy_and_says_what_it_did(shop: Shop) -> None:
    """The predecessor serves with its own policy; the one left is marked; a second rollback has nowhere to go."""
    project = shop("back")
    registry = registry_of(project)
    with pytest.raises(TrainingError, match="no champion to roll back from"):
        rollback_champion.fn(project)
    first = a_version(project, certified=0.4)
    promote_challenger.fn(project)
    second = a_version(project, certified=0.6)
    promote_challenger.fn(project)
    said = rollback_champion.fn(project)
    assert (said["champion_version"], said["rolled_back_from"]) == (first, second)
    assert said["certified_coverage"] == 0.4
    assert said["policy_id"] < said["policy_before"]
    assert registry.alias("champion") == first
    assert "rolled_back_at" in registry.tags(second)
    assert f"champion {second} -> {first}, rolled back" in registry.history()[0]
    assert len(registry.history()) == 3
    with pytest.raises(TrainingError, match="has no predecessor"):
        rollback_champion.fn(project)


@pytest.mark.parametrize("last", ["set_alias", "add_to_history"])
def test_a_rollback_cut_short_and_repeated_goes_one_version_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Killed right after the alias moved, or after that was written down: finished and said, not done again."""
    project = shop(f"cut-{last.replace('_', '-')}")
    registry = registry_of(project)
    for _ in range(3):
        a_version(project)
        assert promote_challenger.fn(project).promoted
    whole: Callable[..., Any] = getattr(Registry, last)

    def and_no_more(*given: Any) -> Any:
        whole(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, last, and_no_more)
        with pytest.raises(KeyboardInterrupt):
            rollback_champion.fn(project)
    assert registry.alias("champion") == "2"
    said = rollback_champion.fn(project)
    assert (said["champion_version"], said["rolled_back_from"]) == ("2", "3")
    assert "finished a rollback that was cut short" in said["sentence"]
    assert "rolled_back_at" in registry.tags("3")
    assert [line for line in registry.history() if "rolled back" in line] == [registry.history()[0]]

    further = rollback_champion.fn(project)
    assert (further["champion_version"], further["rolled_back_from"]) == ("1", "2")
    assert "cut short" not in further["sentence"]


def test_only_so_many_versions_are_kept_and_what_serves_among_them(shop: Shop) -> None:
    """The oldest go, files and held-out answers with them; predecessor, champion, a person's alias and facts stay."""
    project = shop("keeping", keep_versions=3)
    registry = registry_of(project)
    retrains = project.root / "retrains"
    retrains.mkdir(parents=True)
    folders, deleted = {}, []
    for number in range(1, 7):
        version = a_version(project)
        folders[version] = folder_of(registry, version)
        rows = "of 3 and 5" if number in (3, 5) else f"of {version}"
        (retrains / f"{version}.json").write_text(json.dumps({"record": {"snapshot": {"fingerprint": rows}}}))
        (project.root / "snapshots" / rows).mkdir(parents=True, exist_ok=True)
        (retrains / f"{version}.heldout.parquet").write_bytes(b"")
        if number == 1:
            registry.set_alias("audited-by-law", version)
        deleted += promote_challenger.fn(project).deleted
    assert registry.alias("champion") == "6"
    assert registry.versions() == ["1", "5", "6"]
    assert deleted == ["2", "3", "4"]
    assert [version for version, folder in folders.items() if folder.exists()] == ["1", "5", "6"]
    assert len(list(retrains.glob("*.json"))) == 6
    assert sorted(file.name[0] for file in retrains.glob("*.parquet")) == ["1", "5", "6"]
    left = {folder.name for folder in (project.root / "snapshots").iterdir()}
    assert left == {"of 1", "of 3 and 5", "of 6"}, "what a kept version was trained on stays"
    assert registry.load("5")
    assert rollback_champion.fn(project)["champion_version"] == "5"
    with pytest.raises(TrainingError, match="version 4, which served before version 5, is kept no longer"):
        rollback_champion.fn(project)


def test_a_deletion_that_was_killed_is_finished_by_the_next(shop: Shop) -> None:
    """Files gone, version still there: deleting again takes it away without a word."""
    project = shop("killed")
    registry, version = registry_of(project), a_version(project)
    shutil.rmtree(folder_of(registry, version))
    registry.delete(version)
    assert registry.versions() == []


def test_approval_waits_for_a_person_and_remembers_who(shop: Shop) -> None:
    """The gate's yes is not enough: asked once, taken up by the run that asked, and done as the person said."""
    project = shop("asking", approval="human")
    registry, version = registry_of(project), a_version(project)
    asked = promote_challenger.fn(project)
    assert (asked.promoted, asked.waiting, asked.champion_version) == (False, True, None)
    assert registry.tags(version)["gate"] == "waits for a person"
    assert registry.alias("champion") is None

    note_question.fn(project, asked, "run-1")
    assert open_question.fn(project, "run-2") is None, "another run's question"
    again = open_question.fn(project, "run-1")
    assert again == asked, "nothing is compared anew"
    nightly = promote_challenger.fn(project)
    assert (nightly.promoted, nightly.waiting) == (False, False)
    assert "a person is asked in the Prefect UI until" in nightly.reasons[0]

    note_answer.fn(project, asked, "run-1", True, "Ada", "looks right")
    done = answer_challenger.fn(project, "run-1")
    assert done.promoted
    assert done.reasons[-1] == "Ada says yes: looks right"
    assert registry.alias("champion") == version
    tags = registry.tags(version)
    assert (tags["approval"], tags["approval_by"], tags["approval_reason"]) == (
        "approved",
        "Ada",
        "looks right",
    )
    assert "Ada says yes: looks right" in registry.history()[0]
    note_answer.fn(project, asked, "run-1", False, "Bob", "I do not think so")
    assert answer_challenger.fn(project, "run-1") == done, "an answer that comes twice moves nothing"
    assert len(registry.history()) == 1
    late = answer_challenger.fn(project, "run-2")
    assert not late.promoted
    assert "start promote again" in late.reasons[0]


def test_a_yes_that_was_not_carried_out_is_by_the_next_promote(shop: Shop) -> None:
    """Whoever promotes next, the nightly or the same run again: no second comparison and no second question."""
    project = shop("kept", approval="human")
    registry, version = registry_of(project), a_version(project)
    asked = promote_challenger.fn(project)
    note_question.fn(project, asked, "run-1")
    note_answer.fn(project, asked, "run-1", True, "Ada", "looks right")
    tags = registry.tags(version)
    assert (tags["gate"], tags["approval"], tags["approval_by"]) == ("waits for a person", "approved", "Ada")
    assert registry.alias("champion") is None
    done = promote_challenger.fn(project)
    assert (done.promoted, done.reasons[-1]) == (True, "Ada says yes: looks right")
    assert registry.alias("champion") == version
    assert registry.tags(version)["gate"] == "promoted"
    assert answer_challenger.fn(project, "run-1").promoted
    assert len(registry.history()) == 1

    second = a_version(project)
    note_question.fn(project, promote_challenger.fn(project), "run-2")
    note_answer.fn(project, promote_challenger.fn(project, asks="run-3"), "run-2", True, "Ada", "as well")
    assert promote_challenger.fn(project, asks="run-2").waiting, "run-3 has taken the question over"
    note_question.fn(project, promote_challenger.fn(project, asks="run-2"), "run-2")
    note_answer.fn(project, promote_challenger.fn(project, asks="run-2"), "run-2", True, "Ada", "as well")
    assert promote_challenger.fn(project, asks="run-2").champion_version == second


def test_a_yes_is_none_after_a_rollback(shop: Shop) -> None:
    """A version that a person let serve and that was taken back is asked about anew before it serves again."""
    project = shop("once", approval="human")
    registry, _ = registry_of(project), a_version(project)
    promote_challenger.fn(project, approved=True)
    second = a_version(project)
    promote_challenger.fn(project, approved=True)
    rollback_champion.fn(project)
    registry.set_alias("challenger", second)
    assert promote_challenger.fn(project).waiting


def test_a_yes_about_one_pair_is_none_for_another_cut_short_on_the_way(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after any of the tags that a newer comparison writes, the older answer lets nothing serve."""
    from mlflow import MlflowClient

    project = shop("tags", approval="human")
    registry, version = registry_of(project), a_version(project)
    asked = promote_challenger.fn(project)
    note_question.fn(project, asked, "run-1")
    note_answer.fn(project, asked, "run-1", True, "Ada", "as the first one")
    answer = {name: tag for name, tag in registry.tags(version).items() if name != "student"}
    champion = a_version(project)
    registry.set_alias("champion", champion)
    registry.set_alias("challenger", version)
    whole = MlflowClient.set_model_version_tag
    for most in range(1, 8):
        registry.tag(version, answer)
        left = iter(range(most))

        def so_many(*given: Any, left: Any = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            whole(*given)

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "set_model_version_tag", so_many)
            with suppress(KeyboardInterrupt):
                promote_challenger.fn(project)
        assert promote_challenger.fn(project).waiting, most
        assert registry.alias("champion") == champion


def test_a_yes_is_none_for_a_newer_version(shop: Shop) -> None:
    """Given and not carried out before another challenger came, it is closed, and its run has nothing to do."""
    project = shop("overtaken", approval="human")
    registry, older = registry_of(project), a_version(project)
    asked = promote_challenger.fn(project)
    note_question.fn(project, asked, "run-1")
    note_answer.fn(project, asked, "run-1", True, "Ada", "looks right")
    newer = a_version(project)
    void = answer_challenger.fn(project, "run-1")
    assert (void.promoted, void.waiting) == (False, False)
    assert f"no longer the question, version {newer} after none is" in void.reasons[0]
    assert promote_challenger.fn(project).waiting
    tags = registry.tags(older)
    assert (tags["gate"], tags["approval"]) == ("refused", "superseded")
    assert tags["gate_reasons"] == f"version {newer} came before the yes of Ada was carried out"


def test_a_question_that_nobody_can_hear_the_answer_to_is_asked_again(shop: Shop) -> None:
    """Given up it is compared anew and waits for a run to ask it; while it stands it says which run asks."""
    project = shop("lost-question", approval="human")
    a_version(project)
    asked = promote_challenger.fn(project)
    assert question_of_another.fn(project) is None, "nobody asks yet"
    note_question.fn(project, asked, "run-1")
    assert question_of_another.fn(project) == ("run-1", asked, False)
    assert not promote_challenger.fn(project).waiting
    give_up_question.fn(project, asked)
    assert question_of_another.fn(project) is None
    assert promote_challenger.fn(project).waiting


def test_a_no_is_kept_and_nobody_is_asked_again(shop: Shop) -> None:
    """A rejected version stays refused for every later night; a person may still change their mind."""
    project = shop("no", approval="human")
    registry, version = registry_of(project), a_version(project)
    asked = promote_challenger.fn(project)
    note_question.fn(project, asked, "run-1")
    note_answer.fn(project, asked, "run-1", False, "Ada", "too few shoes")
    said = answer_challenger.fn(project, "run-1")
    assert (said.promoted, said.waiting, said.reasons) == (False, False, ["Ada says no: too few shoes"])
    tags = registry.tags(version)
    assert (tags["gate"], tags["approval"]) == ("refused", "rejected")
    assert promote_challenger.fn(project).reasons == ["Ada says no: too few shoes"]
    assert promote_challenger.fn(project, asks="run-1").reasons == ["Ada says no: too few shoes"], "a retry"
    assert promote_challenger.fn(project, asks="run-2").waiting
    assert promote_challenger.fn(project, approved=True).promoted
    assert registry.tags(version)["approval_by"].endswith(", by --approve")


def test_a_no_about_one_champion_is_none_about_another(shop: Shop) -> None:
    """Rejected as the first to serve, it is judged anew where it would follow somebody, and so is a stale question."""
    project = shop("other", approval="human")
    registry, first = registry_of(project), a_version(project)
    asked = promote_challenger.fn(project)
    note_question.fn(project, asked, "run-1")
    note_answer.fn(project, asked, "run-1", False, "Ada", "too early")
    registry.set_alias("champion", a_version(project))
    registry.set_alias("challenger", first)
    assert promote_challenger.fn(project).waiting
    assert promote_challenger.fn(project).waiting, "nobody has been asked about this pair yet"
    note_question.fn(project, promote_challenger.fn(project), "run-2")
    worse = a_version(project, wrong=True)
    assert not promote_challenger.fn(project).waiting
    assert registry.tags(worse)["approval"] == "none"


def test_silence_is_a_no(shop: Shop) -> None:
    """After the hours are over the version counts as refused, by a record that says so; a day too early it waits."""
    project = shop("silent", approval="human", approval_hours=24)
    registry, version = registry_of(project), a_version(project)
    note_question.fn(project, promote_challenger.fn(project), "run-1")
    tags, now = registry.tags(version), datetime.now(UTC)
    waiting = standing(tags, None, now + timedelta(hours=23))
    over = standing(tags, None, now + timedelta(hours=25))
    assert waiting is not None
    assert over is not None
    assert "a person is asked" in waiting.reasons[0]
    assert over.reasons == [f"nobody answered until {tags['approval_until']}, which is a no"]

    registry.tag(version, {"approval_until": (now - timedelta(seconds=1)).isoformat()})
    assert "nobody answered" in promote_challenger.fn(project).reasons[0]
    tags = registry.tags(version)
    assert (tags["gate"], tags["approval"]) == ("refused", "expired")


def test_a_newer_challenger_closes_the_question_about_the_older(shop: Shop) -> None:
    """Only one version waits at a time, and the run that asked about the older one has nothing to take up."""
    project = shop("newer", approval="human")
    registry, older = registry_of(project), a_version(project)
    note_question.fn(project, promote_challenger.fn(project), "run-1")
    newer = a_version(project)
    assert open_question.fn(project, "run-1") is None
    assert promote_challenger.fn(project).waiting
    assert registry.versions(approval="waiting") == []
    tags = registry.tags(older)
    assert (tags["gate"], tags["approval"]) == ("refused", "superseded")
    assert f"version {newer} came before an answer did" in tags["gate_reasons"]


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"approval_hours": 0}, "promotion.approval_hours"),
        ({"max_latency_ms": 0}, "promotion.max_latency_ms"),
        ({"keep_versions": 2}, "promotion.keep_versions"),
        ({"approval": "nobody"}, "promotion.approval"),
    ],
)
def test_settings_of_promotion_that_make_no_sense_are_refused(
    tiny_project: Callable[..., Path], wrong: dict[str, Any], path: str
) -> None:
    """With their place and what may stand there."""
    with pytest.raises(ConfigError, match=r"See conf/template.yaml") as refused:
        load_project(tiny_project(promotion=wrong))
    assert refused.value.path == path
