"""A small image project through the real flows: the same wheel, turned by pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from deployments.teacher_sim import TeacherServer
from tasks.demo import digits
from tasks.embedding.vectors import encoder_settings, vectors_of
from tasks.project import load_project
from tasks.promotion.tracking import registry_of
from tasks.records import image_key
from tasks.sources import iterate_sources, read_gold, read_items
from tasks.store.labels import effective_labels
from tests.conftest import ROOT
from tests.flows.conftest import Wheel

pytestmark = pytest.mark.slow

ITEMS, GOLD, TRAFFIC = 240, 120, 60


def write_digits(folder: Path, base_url: str, **sections: Any) -> Path:
    """A project of a few hundred digits; returns the YAML's path."""
    made = digits.generate()
    folder.mkdir(parents=True, exist_ok=True)
    digits.write(folder, made)
    made.items[:ITEMS].write_parquet(folder / "items.parquet")
    made.gold[:GOLD].write_parquet(folder / "gold.parquet")
    # A few known items among the traffic: their labels answer.
    pl.concat([made.traffic[: TRAFFIC - 5], made.items[:5]]).write_parquet(folder / "traffic.parquet")
    settings: dict[str, Any] = {
        "project": "digits",
        "task": {"modality": "image", "taxonomy": "digits.taxonomy.yaml", "other": None},
        "source": {"items": "items.parquet", "id": "id", "image": "image"},
        "gold": "gold.parquet",
        "teacher": {"base_url": base_url, "model": "simulated-teacher", "passes": 2, "concurrency": 16},
        "encoder": {"model": "pixels:16"},
        "student": {"candidates": ["linear"]},
        "routing": {"target_error": 0.2, "confidence": 0.8, "audit_rate": 0.2},
        "storage": {"root": str(folder / "var")},
        "mlflow": {"tracking_uri": f"sqlite:///{folder / 'mlflow.db'}"},
    }
    file = folder / "digits.yaml"
    file.write_text(yaml.safe_dump(settings | sections))
    return file


def answers() -> dict[bytes, list[str]]:
    """What the teacher says about every picture: the truth, but every twelfth second pass is off by one."""
    truth = digits.generate().truth()
    said = {}
    for place, (image, label) in enumerate(truth.select("image", "label").iter_rows()):
        off = digits.LABELS[(digits.LABELS.index(label) + 1) % 10]
        said[image] = [label, off if place % 12 == 0 else label]
    return said


@pytest.fixture(scope="module")
def turned_by_pictures(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wheel]:
    from flows.embed import embed
    from flows.label import label
    from flows.promote import promote
    from flows.retrain import retrain

    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch, TeacherServer(answers()) as teacher:
        patch.setenv("FLYWHEEL_HOME", str(folder))
        file = write_digits(folder, teacher.base_url)
        results: dict[str, Any] = {"label": label(str(file), gold=True)}
        results["label again"] = label(str(file), gold=True)
        for name, job in (("embed", embed), ("retrain", retrain), ("promote", promote)):
            results[name] = job(str(file))
        yield Wheel(file, load_project(file, folder), teacher, results)


def test_pictures_are_labelled_by_what_they_show(turned_by_pictures: Wheel) -> None:
    """The teacher is sent the image itself: it answers by the hash of its bytes, and agreements become labels."""
    said = turned_by_pictures.results["label"]
    assert (said.items, said.unlabelled_left, said.failed) == (ITEMS, 0, 0)
    assert said.labelled + said.disagreed == ITEMS
    assert 0 < said.disagreed < ITEMS / 6
    truth = {
        image_key(image): label
        for image, label in digits.generate().truth().select("image", "label").iter_rows()
    }
    labels = effective_labels(turned_by_pictures.store)
    assert labels.height == said.labelled
    assert all(truth[key] == label for key, label in labels.select("key", "label").iter_rows())


def test_asking_about_gold_is_counted_once(turned_by_pictures: Wheel) -> None:
    """Gold costs one call an item; asked again it is known, free and no call; it never becomes a label."""
    first, again = (turned_by_pictures.results[name] for name in ("label", "label again"))
    assert first.calls == 2 * ITEMS + GOLD
    assert (again.calls, again.cost_usd, again.items) == (0, 0.0, 0)
    gold = read_gold(turned_by_pictures.project)
    assert not effective_labels(turned_by_pictures.store).join(gold, on="key", how="semi").height


def test_every_picture_has_a_vector(turned_by_pictures: Wheel) -> None:
    """Items and gold, each once, 16 x 16 grey values."""
    said = turned_by_pictures.results["embed"]
    assert (said.encoded, said.total) == (ITEMS + GOLD, ITEMS + GOLD)
    project = turned_by_pictures.project
    vectors = vectors_of(encoder_settings(project.encoder), project.root, read_gold(project), "image")
    assert vectors.shape == (GOLD, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)


def test_a_linear_student_reads_digits_and_serves(turned_by_pictures: Wheel) -> None:
    """Judged on gold it is right for most, is promoted, and knows the teacher's own accuracy beside its own."""
    retrained, promoted = (turned_by_pictures.results[name] for name in ("retrain", "promote"))
    assert promoted.promoted, promoted.reasons
    assert retrained.student == "linear"
    [level] = turned_by_pictures.project.taxonomy.levels
    assert retrained.metrics[f"gold.{level}.top1"] > 0.7
    assert retrained.teacher[f"gold.{level}.top1"] == 1.0
    assert retrained.policy.certified_coverage > 0


def test_pictures_are_routed_by_cache_student_and_teacher(turned_by_pictures: Wheel, tmp_path: Path) -> None:
    """Known pictures come from the cache, sure ones from the student, the others from the teacher; most are right."""
    from flows.route import route

    file, out = turned_by_pictures.file.parent / "traffic.parquet", tmp_path / "out.parquet"
    routed = route(str(turned_by_pictures.file), str(file), str(out))
    answered, asked = pl.read_parquet(out), pl.read_parquet(file)
    assert answered["id"].to_list() == asked["id"].to_list()
    assert sum(routed.tiers.values()) == TRAFFIC
    assert routed.tiers["exact_cache"] >= 4
    assert routed.tiers["student"] > 0
    assert routed.unanswered == 0
    truth = dict(digits.generate().truth().select("id", "label").iter_rows())
    [level] = turned_by_pictures.project.taxonomy.levels
    right = [truth[id] == label for id, label in answered.select("id", level).iter_rows()]
    assert sum(right) > 0.8 * TRAFFIC
    student = answered.filter(pl.col("tier") == "student")
    assert student["confidence"].is_between(0, 1).all()


def test_a_timm_student_learns_is_packaged_and_answers(turned_by_pictures: Wheel, tmp_path: Path) -> None:
    """Its frozen layers are those of the file beside the project's; it is registered and promoted by force.

    It routes pictures without vectors.
    """
    import timm
    from safetensors.torch import load_file, save_file

    from flows.promote import promote
    from flows.retrain import retrain
    from flows.route import route

    settings = yaml.safe_load(turned_by_pictures.file.read_text())
    settings["student"] = {
        "candidates": ["timm"],
        "timm_model": "test_efficientnet",
        "image_size": 32,
        "timm": {"weights": "weights.safetensors", "device": "cpu"},
    }
    weights = turned_by_pictures.file.with_name("weights.safetensors")
    save_file(timm.create_model("test_efficientnet").state_dict(), weights)
    file = turned_by_pictures.file.with_name("timm.yaml")
    file.write_text(yaml.safe_dump(settings))
    retrained = retrain(str(file))
    assert retrained.student == "timm"
    promoted = promote(str(file), force_reason="a test wants to see it serve")
    assert promoted.champion_version == retrained.model_version
    student = registry_of(turned_by_pictures.project).load(retrained.model_version)
    assert student.reads_images
    state, before = student.head._net.state_dict(), load_file(weights)
    assert [name for name in state if not state[name].equal(before[name])] == [
        "classifier.weight",
        "classifier.bias",
    ]
    images = digits.generate().gold["image"][:8].to_list()
    P = student.probabilities(images)
    assert P.shape == (8, 10)
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-4)
    out = tmp_path / "out.parquet"
    routed = route(str(file), str(turned_by_pictures.file.parent / "traffic.parquet"), str(out))
    assert (routed.items, routed.unanswered) == (TRAFFIC, 0)


def test_the_committed_digits_project_fits_the_generated_data(tmp_path: Path) -> None:
    """conf/digits.yaml loads, and names the files, columns and labels that the generator writes."""
    (tmp_path / "conf").mkdir()
    for name in ("digits.yaml", "digits.taxonomy.yaml"):
        shutil.copy(ROOT / "conf" / name, tmp_path / "conf" / name)
    made = digits.generate()
    digits.write(tmp_path / "var" / "digits", made)
    project = load_project(tmp_path / "conf" / "digits.yaml", tmp_path)
    assert project.taxonomy.leaves == digits.LABELS
    assert project.root == tmp_path / "var" / "digits"
    gold = read_gold(project)
    assert gold.select("source_id", "label").rows() == made.gold.select("id", "label").rows()
    [(file, table)] = iterate_sources(project, project.source.items, None)
    items = read_items(project, table, file)
    assert (items.frame.height, items.rejections) == (made.items.height, ())
    assert not items.frame.join(gold, on="key", how="semi").height
    [(file, table)] = iterate_sources(project, str(project.source.traffic), None)
    assert read_items(project, table, file).frame.height == made.traffic.height
    vectors = vectors_of(encoder_settings(project.encoder), project.root, gold[:5], "image")
    assert vectors.shape == (5, 256)
