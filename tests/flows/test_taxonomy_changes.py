"""A taxonomy that changed since the last model, job by job: with and without a file that says what became of labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from deployments.teacher_sim import TeacherServer
from tasks.errors import InputError
from tasks.labeling.steps import estimate_labelling, items_still_wanted, label_with_teacher, take_in_items
from tasks.monitoring.checks import check_project
from tasks.project import Project, load_project
from tasks.records import Labelled, Promoted
from tasks.sources import read_gold
from tasks.store import Store, open_store
from tasks.store.labels import append_labels, raw_labels
from tasks.store.moved import current_labels
from tests.conftest import TINY_LEAVES, write_tiny_project
from tests.flows.conftest import recorded

pytestmark = pytest.mark.slow

THEN = [" > ".join(leaf) for leaf in TINY_LEAVES]
NOW: dict[str, Any] = {
    "Kitchen": {"Boilers": "to boil water in", "Knives": None},
    "Outdoors": {"Hoses": "to bring water to plants", "Seeds": None},
    "Clothing": {"Shirts": None, "Sneakers": None, "Boots": None},
}
MOVED = {
    "Kitchen > Kettles": "Kitchen > Boilers",
    "Garden": "Outdoors",
    "Clothing > Shoes": ["Clothing > Sneakers", "Clothing > Boots"],
}
RENAMED = {
    "Kitchen > Kettles": "Kitchen > Boilers",
    "Garden > Hoses": "Outdoors > Hoses",
    "Garden > Seeds": "Outdoors > Seeds",
}
SHOES = "Clothing > Shoes"


def now(label: str, text: str) -> str:
    """What a teacher of today says."""
    if label == SHOES:
        return "Clothing > Boots" if text.startswith(("hiking", "loafers")) else "Clothing > Sneakers"
    return RENAMED.get(label, label)


@dataclass
class Changing:
    """One project whose taxonomy changes; its teachers count what they are asked."""

    folder: Path
    tracking_uri: str
    before: TeacherServer
    after: TeacherServer

    def project(self, tree: dict[str, Any] | None = None, moved: dict[str, Any] | None = None) -> Project:
        """As it is under a tree (None: the first one) and a file of moves (None: none)."""
        task = {"moved": "moved.yaml"} if moved is not None else {}
        teacher = {"base_url": (self.before if tree is None else self.after).base_url}
        file = write_tiny_project(
            self.folder,
            task=task,
            teacher=teacher,
            storage={"root": str(self.folder / "var")},
            mlflow={"tracking_uri": self.tracking_uri},
            routing={"target_error": 0.3, "confidence": 0.7},
        )
        if tree is not None:
            (self.folder / "taxonomy.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        if moved is not None:
            (self.folder / "moved.yaml").write_text(yaml.safe_dump(moved, sort_keys=False))
        return load_project(file, self.folder)

    def gold_of_today(self, split: bool = True) -> None:
        """Relabel the gold of shoes, or with `split` false of everything."""
        gold = pl.read_parquet(self.folder / "gold.parquet")
        said = [
            f"{row['department']} > {row['category']}"
            if split and f"{row['department']} > {row['category']}" != SHOES
            else now(f"{row['department']} > {row['category']}", row["name"])
            for row in gold.iter_rows(named=True)
        ]
        columns = [label.split(" > ") for label in said]
        gold.with_columns(
            pl.Series("department", [path[0] for path in columns]),
            pl.Series("category", [path[1] for path in columns]),
        ).write_parquet(self.folder / "gold.parquet")


@pytest.fixture
def changing(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    write_tiny_project(tmp_path / "p")
    answers = recorded(tmp_path / "p")
    today = {text: [now(label, str(text)) for label in said] for text, said in answers.items()}
    today |= {f"{text!s} x": said for text, said in today.items()}
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with TeacherServer(answers) as before, TeacherServer(today) as after:
        yield Changing(tmp_path / "p", uri, before, after)


def labelled(project: Project, run_id: int = 1) -> Labelled:
    take_in_items.fn(project, run_id)
    return label_with_teacher.fn(project, run_id)


def opened(project: Project) -> Store:
    return open_store(project.database_url, project.project)


def retrained(project: Project) -> Promoted:
    from tasks.cleaning.steps import clean_snapshot
    from tasks.promotion.steps import promote_challenger
    from tasks.student.steps import take_snapshot, train_and_register

    train_and_register.fn(project, clean_snapshot.fn(project, take_snapshot.fn(project)), 1)
    return promote_challenger.fn(project)


def check_of(project: Project, name: str) -> Any:
    return next(check for check in check_project(project.file, ask_teacher=False) if check.name == name)


def test_without_a_file_of_moves_lost_labels_are_named_and_asked_about_again(changing: Changing) -> None:
    """Check, label and snapshot name them with their items; a person's label that is gone is asked about, too."""
    from tasks.student.steps import take_snapshot

    first = changing.project()
    assert labelled(first).lost == {}
    store = opened(first)
    person = current_labels(store, first.taxonomy).filter(pl.col("label") == SHOES)["key"][0]
    kept = current_labels(store, first.taxonomy).filter(pl.col("label") == "Kitchen > Knives")["key"][0]
    append_labels(store, [(person, SHOES, "human"), (kept, "Kitchen > Knives", "human")], 1)
    given = raw_labels(store)

    project = changing.project(NOW)
    changing.gold_of_today(split=False)
    said = check_of(project, "labels")
    assert SHOES in said.detail or "more" in said.detail
    assert "Garden > Hoses 9" in said.detail
    assert "task.moved" in said.remedy
    snapshot = take_snapshot.fn(project)
    assert set(snapshot.lost) == {*RENAMED, SHOES}
    assert sum(snapshot.lost.values()) + snapshot.rows >= 54
    learned = pl.read_parquet(snapshot.path)
    assert set(learned["label"]) <= set(project.taxonomy.leaves)

    said = label_with_teacher.fn(project, 2)
    assert said.lost == snapshot.lost
    assert said.items == 59, "a changed prompt asks about everything but what a person's valid label decided"
    effective = dict(current_labels(store, project.taxonomy).select("key", "label").iter_rows())
    assert effective[person] in ("Clothing > Boots", "Clothing > Sneakers")
    assert effective[kept] == "Kitchen > Knives"
    assert len(effective) >= 54
    assert raw_labels(store).head(given.height).equals(given)
    assert label_with_teacher.fn(project, 3).lost == {}


def test_with_it_only_what_was_split_is_asked_about(changing: Changing) -> None:
    """Renamed items keep labels and answers; the estimate says so beforehand, and nothing stored is touched."""
    first = changing.project()
    labelled(first)
    store = opened(first)
    given = raw_labels(store)
    shoes = given.filter(pl.col("label") == SHOES).height

    project = changing.project(NOW, MOVED)
    with pytest.raises(
        InputError, match=r"'Clothing > Shoes'.*was split into Clothing > Sneakers, Clothing > Boots"
    ):
        read_gold(project)
    changing.gold_of_today()
    assert set(read_gold(project)["label"]) == set(project.taxonomy.leaves) - {"none of these"}
    held = current_labels(store, project.taxonomy)
    assert held.height == 54 - shoes
    assert "where task.moved leads" in check_of(project, "labels").detail

    names = pl.read_parquet(changing.folder / "items.parquet")["name"].to_list()
    doubtful = [said for text, said in recorded(changing.folder).items() if text in names and SHOES in said]
    assert estimate_labelling.fn(project, 2).items == len(doubtful) < 15
    said = label_with_teacher.fn(project, 2)
    assert said.lost == {SHOES: shoes}
    assert (said.items, said.calls, said.unlabelled_left) == (len(doubtful), 2 * len(doubtful), 0)
    after = current_labels(store, project.taxonomy)
    assert set(after["label"]) == set(project.taxonomy.leaves) - {"none of these"}
    assert after.height >= 54
    assert raw_labels(store).head(given.height).equals(given)
    assert label_with_teacher.fn(project, 3).calls == 0
    assert items_still_wanted(project, 60) == 0, "what holds from before counts as asked about"

    grown = changing.project({**NOW, "Garage": {"Tyres": None}}, MOVED)
    changing.gold_of_today()
    assert estimate_labelling.fn(grown, 4).items == 60, "nobody said where Tyres came from"


def test_the_champion_of_the_old_taxonomy_serves_until_it_is_promoted_over(changing: Changing) -> None:
    """Its answers and the cache's bear today's names; the gate compares on labels that both know, and says so."""
    from tasks.promotion.tracking import registry_of
    from tasks.routing.steps import route_file
    from tasks.store.policies import append_policy, policy_in_force

    first = changing.project()
    labelled(first)
    assert retrained(first).promoted
    champion = registry_of(first).alias("champion")
    assert champion is not None
    policy = policy_in_force(opened(first), champion)
    assert policy is not None
    append_policy(opened(first), replace(policy, thresholds={"department": 0.0, "category": 0.0}), 1)

    project = changing.project(NOW, MOVED)
    changing.gold_of_today()
    names = pl.read_parquet(changing.folder / "items.parquet")
    unseen = names.with_columns(pl.format("{} x", "name").alias("name"), pl.format("{}-x", "id").alias("id"))
    file = changing.folder / "route.parquet"
    pl.concat([names, unseen]).write_parquet(file)
    out = changing.folder / "out.parquet"
    routed = route_file.fn(project, str(file), str(out), 5)
    answers = pl.read_parquet(out)
    assert routed.unanswered == 0
    paths = set((answers["department"] + " > " + answers["category"]).to_list())
    assert paths <= set(project.taxonomy.leaves)
    by_tier = answers.filter(pl.col("tier") == "exact_cache")
    assert by_tier.height >= 45
    assert "Outdoors" in set(by_tier["department"])
    assert "Sneakers" not in set(by_tier["category"]), "what was split is in no cache"
    by_student = answers.filter(pl.col("tier") == "student")
    assert by_student.height > 0
    assert set(by_student["department"]) <= set(NOW)
    assert "Shoes" not in set(answers["category"])
    assert registry_of(project).alias("champion") == champion

    append_policy(opened(project), replace(policy, thresholds=None), 6)  # lapsed: coverage is waived
    label_with_teacher.fn(project, 6)
    promoted = retrained(project)
    assert promoted.numbers["gold"]["rows"] < read_gold(project).height
    rows = promoted.numbers["gold"]["rows"]
    assert promoted.numbers["gold"]["champion_accuracy"] > 0.5, (
        "its Garden > Hoses is today's Outdoors > Hoses"
    )
    assert rows > 0
    assert promoted.promoted, promoted.reasons
    assert any("does not know their labels" in reason for reason in promoted.reasons)

    tree = {branch + " goods": leaves for branch, leaves in NOW.items()}
    changing.project()
    changing.gold_of_today(split=False)
    gold = pl.read_parquet(changing.folder / "gold.parquet")
    wholly = gold.with_columns(department=pl.col("department") + " goods")
    renamed = {
        text: [now(label, str(text)).replace(" > ", " goods > ") for label in labels]
        for text, labels in recorded(changing.folder).items()
    }
    with TeacherServer(renamed) as changing.after:
        project = changing.project(tree)
        wholly.write_parquet(changing.folder / "gold.parquet")
        label_with_teacher.fn(project, 7)
        succeeded = retrained(project)
    assert succeeded.promoted
    assert "knows none of the labels" in succeeded.reasons[0], "nothing it says would be taken"
