"""The registry: what was registered is served again, by alias and by MLflow alone, without pickle."""

from __future__ import annotations

import shutil
import traceback
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sqlalchemy import NullPool, create_engine, text

from tasks.embedding.encoders import EncoderSettings, load_encoder
from tasks.errors import RegistryError, TrainingError
from tasks.promotion.registry import CandidateRun, Registry
from tasks.student.linear import LinearHead
from tasks.student.package import Student
from tasks.taxonomy import Taxonomy
from tests.conftest import TINY_LEAVES

pytestmark = pytest.mark.slow

LEAVES = tuple(" > ".join(leaf) for leaf in TINY_LEAVES)
TAXONOMY = Taxonomy(("department", "category"), LEAVES, {})
ENCODER = EncoderSettings("hash:64")
NAMES = [
    f"{noun} {kind}" for nouns in TINY_LEAVES.values() for noun in nouns for kind in ("classic", "deluxe")
]


def a_student(strength: float) -> Student:
    vectors = load_encoder(ENCODER).encode(NAMES)
    truth = np.repeat(np.arange(len(LEAVES)), len(NAMES) // len(LEAVES))
    head = LinearHead(strength).fit(vectors, truth, n_leaves=len(LEAVES), seed=0)
    return Student(TAXONOMY, head, "linear", "text", ENCODER, 0.7, {"strength": strength})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry with two versions of the model `shop`: 1 champion, 2 challenger."""
    folder = tmp_path_factory.mktemp("mlflow")
    snapshot = folder / "rows.parquet"
    pl.DataFrame({"key": [b"k" * 16], "label": [LEAVES[0]], "source": ["human"]}).write_parquet(snapshot)
    registry = Registry(f"sqlite:///{folder / 'mlflow.db'}", "shop", "shop", folder / "artifacts")
    for strength in (1.0, 30.0):
        parent = CandidateRun("retrain", {"rows": 1}, {"gold.category.top1": 0.9}, tags={"against": "gold"})
        child = CandidateRun("linear", {"strength": strength}, {"out_of_fold_log_loss": 0.5})
        run = registry.log_retrain(parent, [child], snapshot, "f" * 24, {"t.json": {"a": [1]}}, {"facts": 1})
        registry.register(run, a_student(strength), "It may answer nothing.", {"student": "linear"})
        if strength == 1.0:
            registry.set_alias("champion", "1")
    return registry


def test_aliases_point_where_they_were_set(registry: Registry) -> None:
    """The newest version is the challenger, the champion stays, an alias that was never set is None."""
    assert (registry.alias("champion"), registry.alias("challenger")) == ("1", "2")
    assert registry.alias("nobody") is None
    assert registry.versions() == ["1", "2"]
    registry.set_alias("visiting", "2")
    registry.drop_alias("visiting")
    assert registry.alias("visiting") is None


def test_a_model_that_was_never_registered_has_no_alias(registry: Registry) -> None:
    """A project before its first retrain has no champion, which is no error."""
    assert Registry(registry.tracking_uri, "new", "new", registry.artifact_root).alias("champion") is None


def test_each_version_loads_as_it_was(registry: Registry) -> None:
    """Same taxonomy, encoder, temperature and facts; probabilities equal to the last bit."""
    vectors = load_encoder(ENCODER).encode(NAMES)
    for version, strength in (("1", 1.0), ("2", 30.0)):
        loaded, made = registry.load(version), a_student(strength)
        assert (loaded.taxonomy.leaves, loaded.encoder, loaded.temperature) == (LEAVES, ENCODER, 0.7)
        assert loaded.about == {"strength": strength}
        assert np.array_equal(loaded.probabilities(vectors), made.probabilities(vectors))


def test_tags_are_kept_with_the_version(registry: Registry) -> None:
    """What the gate writes on a version is read back from it, and only from it."""
    registry.tag("2", {"gate": "refused"})
    assert registry.tags("2")["gate"] == "refused"
    assert registry.tags("2")["student"] == "linear"
    assert "gate" not in registry.tags("1")


def test_mlflow_serves_it_from_a_string_column(registry: Registry) -> None:
    """`mlflow.pyfunc` alone answers a frame of texts, the levels as strings; another column is refused."""
    import mlflow
    import pandas as pd
    from mlflow.exceptions import MlflowException

    assert registry.alias("champion") == "1"
    model = mlflow.pyfunc.load_model("models:/shop@champion")
    [column] = model.metadata.signature.inputs.to_dict()
    assert (column["type"], column["name"]) == ("string", "text")
    told = model.predict(pd.DataFrame({"text": NAMES}))
    answers = a_student(1.0).answers(load_encoder(ENCODER).encode(NAMES))
    assert list(told.columns) == ["department", "category", "confidence", "score"]
    assert (told["department"] + " > " + told["category"]).tolist() == answers.labels
    with pytest.raises(MlflowException):
        model.predict(pd.DataFrame({"name": NAMES}))


def test_nothing_logged_is_a_pickle(registry: Registry) -> None:
    """Loading a model runs no code hidden in its weights."""
    logged = [path for path in registry.artifact_root.rglob("*") if path.is_file()]
    assert {"student.json", "head.json", "head.safetensors"} <= {path.name for path in logged}
    assert not [path for path in logged if path.suffix in (".pkl", ".pickle", ".joblib", ".pt", ".bin")]
    starts = {path.read_bytes()[:2] for path in logged}
    assert not starts & {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}, "the first bytes of a pickle"


@pytest.fixture(params=["sqlite", "postgresql"])
def many_promotions(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """A registry in a database of either kind, with a model that has no version."""
    from mlflow import MlflowClient

    # Else MLflow keeps connections for itself, which psycopg complains of once they are forgotten.
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql_url")
        engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE mlflow_of_many_promotions"))
        address = server.rpartition("/")[0] + "/mlflow_of_many_promotions"
    MlflowClient(address, address).create_registered_model("many")
    return Registry(address, "many", "many", tmp_path / "artifacts")


def test_the_history_of_many_promotions_has_room(many_promotions: Registry) -> None:
    """The newest lines stay, one a promotion and each cut where its reason is long, within what the database holds."""
    for number in range(1, 61):
        many_promotions.add_to_history(f"champion {number - 1} -> {number}, promoted: {'because ' * 62}")
    history = many_promotions.history()
    assert history[0].startswith("champion 59 -> 60, promoted: because")
    assert history[0].endswith("…")
    assert {len(line) for line in history} == {300}
    assert 15 < len(history) < 60
    assert len("\n".join(history)) <= 5000


def test_no_word_of_what_is_said_holds_the_password_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the error, nor what is chained to it and printed in a log, where nobody listens at the address."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Registry("http://ada:a-secret-word@127.0.0.1:9", "shop", "shop", Path("artifacts"))
    with pytest.raises(RegistryError, match=r"MLflow at http://127.0.0.1:9 does not answer") as refused:
        away.versions()
    said = "".join(traceback.format_exception(refused.value))
    assert "API request to http://127.0.0.1:9/" in said
    assert "a-secret-word" not in said


@pytest.mark.parametrize("gone", ["artifacts/student/head.safetensors", "artifacts/student", "."])
def test_a_version_whose_files_are_gone_says_so(registry: Registry, gone: str, tmp_path: Path) -> None:
    """Whether one file or all of them are lost: a training error with the ways out, and it heals when they return."""
    [folder] = [
        path.parents[2]
        for path in registry.artifact_root.rglob("student.json")
        if '"strength": 30.0' in path.read_text()
    ]
    lost, kept = (folder / gone).resolve(), tmp_path / "kept"
    shutil.move(lost, kept)
    try:
        with pytest.raises(
            TrainingError, match=r"version 2 .*flywheel retrain` and `flywheel promote --force REASON"
        ):
            registry.load("2")
        assert registry.load("1")
    finally:
        shutil.move(kept, lost)
    assert registry.load("2")
