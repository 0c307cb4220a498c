"""The jobs as flows under a real Prefect engine: what each leaves, and that the wheel stands still by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import func, select

from tasks.store import Store, schema
from tasks.store.labels import effective_labels
from tests.flows.conftest import Wheel

pytestmark = pytest.mark.slow


def _rows(store: Store) -> dict[str, int]:
    return {
        table.name: int(store.scalar(select(func.count()).select_from(table)))
        for table in schema.metadata.sorted_tables
        if table.name != "lease"
    }


def test_labelling_keeps_what_both_passes_say(turned: Wheel) -> None:
    """Sixty items, two passes: the 54 on which they agree are labelled, six await review, nothing is lost."""
    said = turned.results["label"]
    assert (said.items, said.labelled, said.disagreed, said.unlabelled_left) == (60, 54, 6, 0)
    assert said.calls == 120
    review = pl.read_csv(said.review_file)
    assert review.height >= 6
    assert review["final_label"].null_count() == review.height


def test_every_item_and_gold_item_has_a_vector(turned: Wheel) -> None:
    """Embedding counts items and gold together, each once."""
    said = turned.results["embed"]
    assert (said.encoded + said.cached, said.total) == (90, 90)


def test_retraining_leaves_a_registered_champion_with_its_policy(turned: Wheel) -> None:
    """The registry serves the version that the policy names, and the policy says against whom."""
    from tasks.promotion.tracking import registry_of
    from tasks.store.policies import policy_in_force

    retrained, promoted = turned.results["retrain"], turned.results["promote"]
    assert promoted.promoted, promoted.reasons
    assert registry_of(turned.project).alias("champion") == retrained.model_version
    policy = policy_in_force(turned.store, retrained.model_version)
    assert policy is not None
    # Fifteen gold items cannot certify: held-out labels do, which is agreement with the teacher and says so.
    assert (policy.against, policy.cross_fitted) == ("teacher", True)
    assert "agreement" in policy.sentence
    assert {"gold.department.top1", "gold.category.top5", "gold.category.macro_f1", "ece"} <= set(
        retrained.metrics
    )


def test_the_registered_model_answers_without_the_project(turned: Wheel) -> None:
    """What MLflow serves says the same as the student that was registered, level by level."""
    import mlflow
    import pandas as pd

    from tasks.embedding.encoders import load_encoder
    from tasks.promotion.tracking import registry_of

    registry = registry_of(turned.project)
    student = registry.load(turned.results["retrain"].model_version)
    names = ["kettle classic Alba", "sandals outlet Corvex"]
    model = mlflow.pyfunc.load_model(f"models:/{turned.project.project}@champion")
    told = model.predict(pd.DataFrame({"text": names}))
    answers = student.answers(load_encoder(student.encoder).encode(names))
    assert list(told.columns) == ["department", "category", "confidence", "score"]
    said = [
        " > ".join(part for part in row if part)
        for row in told[["department", "category"]].to_numpy().tolist()
    ]
    assert said == answers.labels
    assert told["confidence"].tolist() == pytest.approx(answers.confidence.tolist(), abs=1e-6)


def test_candidates_are_nested_runs_with_figures(turned: Wheel) -> None:
    """A retrain is one MLflow run with its candidates below it, a confusion matrix and an escalation curve."""
    from mlflow import MlflowClient

    client = MlflowClient(turned.project.tracking_uri)
    parent = client.get_run(turned.results["retrain"].run_id)
    below = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert {run.data.tags["labels"] for run in below} <= {"cleaned", "raw"}
    assert len(below) >= 1
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"confusion-category.png", "calibration.png", "escalation.png", "escalation.json"} <= artifacts
    assert parent.inputs.dataset_inputs


def test_the_wheel_turns_and_then_stands_still(turned: Wheel, tmp_path: Path) -> None:
    """Routing answers and logs each request once; nightly digests it; a second nightly changes nothing."""
    from flows.nightly import nightly
    from flows.route import route

    file = str(turned.file)
    items = pl.read_parquet(turned.file.parent / "items.parquet")
    known, new = (
        items.head(3),
        pl.read_parquet(turned.file.parent / "gold.parquet").select("id", "name").head(20),
    )
    traffic = tmp_path / "traffic.parquet"
    pl.concat([known, new]).write_parquet(traffic)
    out = tmp_path / "out.parquet"

    routed = route(file, str(traffic), str(out))
    answered = pl.read_parquet(out)
    assert answered["id"].to_list() == pl.read_parquet(traffic)["id"].to_list()
    assert answered["department"].null_count() == 0
    assert routed.tiers["exact_cache"] >= 2  # a disputed item is not in the cache
    assert sum(routed.tiers.values()) == 23
    assert (
        answered.filter(pl.col("tier") != "student")["confidence"].null_count()
        == answered.filter(pl.col("tier") != "student").height
    )

    paid = turned.teacher.stats()["paid"]
    again = route(file, str(traffic), str(tmp_path / "again.parquet"))
    assert again.tiers == routed.tiers
    assert pl.read_parquet(tmp_path / "again.parquet").equals(answered)
    assert turned.teacher.stats()["paid"] == paid, "a repeated route pays nothing"
    logged = turned.store.read(select(schema.traffic.c.request_id))
    assert logged.height == logged["request_id"].n_unique() == 23

    (turned.file.parent / "traffic" / "night.parquet").write_bytes(traffic.read_bytes())
    first = nightly(file)
    assert first["changed"] is True
    assert first["route"]["items"] == 0, "these rows were routed before"

    before, paid = _rows(turned.store), turned.teacher.stats()["requests"]
    second = nightly(file)
    after = _rows(turned.store)
    assert second["changed"] is False
    assert turned.teacher.stats()["requests"] == paid, "no teacher is called"
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {"runs": 1}


def test_a_dead_teacher_falls_back_and_the_answer_stays_owed(turned: Wheel, tmp_path: Path) -> None:
    """With nobody to escalate to, the student answers marked as fallback; the run is incomplete without one."""
    from flows.route import route
    from tests.conftest import write_tiny_project

    folder = tmp_path / "dead"
    file = write_tiny_project(
        folder, teacher={"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1, "timeout_seconds": 2}
    )
    out = tmp_path / "out.parquet"
    routed = route(str(file), str(folder / "items.parquet"), str(out))
    assert routed.tiers == {"fallback": 60}
    assert routed.unanswered == 60, "there is no student yet to fall back to"
    assert pl.read_parquet(out).height == 60


def test_rollback_restores_version_and_policy(turned: Wheel) -> None:
    """After a second promotion, a rollback serves the first version again with its policy."""
    from flows.promote import promote, rollback
    from flows.retrain import retrain

    first = _champion(turned)
    retrained = retrain(str(turned.file))
    promoted = promote(str(turned.file), force_reason="a test wants two versions")
    assert promoted.champion_version == retrained.model_version != first
    restored = rollback(str(turned.file))
    assert restored["champion_version"] == first == _champion(turned)
    assert restored["policy_id"] is not None


def _champion(turned: Wheel) -> Any:
    from tasks.promotion.tracking import registry_of

    return registry_of(turned.project).alias("champion")


def test_human_labels_outrank_the_teacher_for_good(turned: Wheel, tmp_path: Path) -> None:
    """A reviewed row becomes the label that counts, and labelling again does not change it back."""
    from flows.label import label
    from tasks.labeling.steps import export_review_queue, import_reviewed

    place, rows = export_review_queue(turned.project, tmp_path / "review.csv")
    assert rows > 0
    table = pl.read_csv(place, infer_schema=False)
    chosen = "Garden > Hoses"
    table.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(chosen)).otherwise(None).alias("final_label")
    ).write_csv(tmp_path / "done.csv")
    record = import_reviewed(turned.project, tmp_path / "done.csv", 0)
    assert record["changed"] + record["confirmed"] == 1
    label(str(turned.file))
    key = bytes.fromhex(table["key"][0])
    counts = effective_labels(turned.store).filter(pl.col("key") == key)
    assert counts.select("label", "source").row(0) == (chosen, "human")
