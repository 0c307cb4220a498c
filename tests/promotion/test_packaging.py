"""The registered model scores frames of any size, on MLflow alone and on Spark, whatever the rows hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from tasks.embedding.encoders import EncoderSettings, load_encoder
from tasks.promotion.registry import CandidateRun, Registry
from tasks.student.linear import LinearHead
from tasks.student.package import Student
from tasks.taxonomy import Taxonomy
from tests.conftest import TINY_LEAVES

pytestmark = pytest.mark.slow

# One branch ends early, and one leaf is "none of these".
LEAVES = (*(" > ".join(leaf) for leaf in TINY_LEAVES), "Vouchers", "none of these")
TAXONOMY = Taxonomy(("department", "category"), LEAVES, {}, "none of these")
ENCODER = EncoderSettings("hash:64")
NOUNS = (*TINY_LEAVES.values(), ("voucher", "gift card"), ("something else", "nothing of it"))
NAMES = [f"{noun} {kind}" for nouns in NOUNS for noun in nouns for kind in ("classic", "deluxe")]
TRUTH = np.repeat(np.arange(len(LEAVES)), [2 * len(nouns) for nouns in NOUNS])


def registered(folder: Path, student: Student) -> Registry:
    """A registry whose model `shop` has the student as its champion."""
    registry = Registry(f"sqlite:///{folder / 'mlflow.db'}", "shop", "shop", folder / "artifacts")
    snapshot = folder / "rows.parquet"
    pl.DataFrame({"key": [b"k" * 16], "label": [LEAVES[0]], "source": ["human"]}).write_parquet(snapshot)
    run = registry.log_retrain(CandidateRun("retrain", {}, {}), [], snapshot, "f" * 24, {}, {})
    registry.set_alias("champion", registry.register(run, student, "It may answer nothing.", {}))
    return registry


@pytest.fixture(scope="module")
def student() -> Student:
    head = LinearHead(30.0).fit(load_encoder(ENCODER).encode(NAMES), TRUTH, n_leaves=len(LEAVES), seed=0)
    return Student(TAXONOMY, head, "linear", "text", ENCODER, 0.7)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, student: Student) -> Registry:
    return registered(tmp_path_factory.mktemp("mlflow"), student)


@pytest.fixture(scope="module")
def model(registry: Registry) -> Any:
    """The champion as anybody with MLflow loads it."""
    import mlflow

    assert registry.alias("champion") == "1"
    return mlflow.pyfunc.load_model("models:/shop@champion")


def written(answers: pd.DataFrame) -> list[str]:
    """The labels as paths."""
    rows = zip(answers["department"], answers["category"], strict=True)
    return [" > ".join(name for name in row if name) for row in rows]


def test_it_says_what_it_takes_and_gives(model: Any) -> None:
    """A text in, a string a level and a double out; an example of the input stands beside it."""
    signature = model.metadata.signature
    assert [(c["name"], c["type"]) for c in signature.inputs.to_dict()] == [("text", "string")]
    assert [(c["name"], c["type"]) for c in signature.outputs.to_dict()] == [
        ("department", "string"), ("category", "string"), ("confidence", "double"), ("score", "double"),
    ]  # fmt: skip
    assert list(model.input_example.columns) == ["text"]
    assert len(model.predict(model.input_example)) == 1


def test_a_long_frame_is_answered_as_its_rows_are(model: Any, student: Student) -> None:
    """More rows than are held at once: each as the student answers it, early ends as empty strings."""
    texts = [f"{NAMES[row % len(NAMES)]} {row}" for row in range(9_000)]
    told = model.predict(pd.DataFrame({"text": texts, "another": range(9_000)}))
    answers = student.answers(load_encoder(ENCODER).encode(texts))
    assert written(told) == answers.labels
    assert {"Vouchers", "none of these"} <= set(answers.labels)
    np.testing.assert_allclose(told["confidence"], answers.confidence, atol=1e-6)
    np.testing.assert_allclose(told["score"], answers.scores[:, -1], atol=1e-6)


def test_a_text_counts_as_the_item_that_it_is(model: Any) -> None:
    """Spacing and Unicode form change no key, so they change no answer."""
    told = model.predict(pd.DataFrame({"text": ["café kettle classic", "  cafe\u0301   kettle\tclassic\n"]}))
    assert told.iloc[0].equals(told.iloc[1])


@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA, "", " \t\u0007"])
def test_a_row_without_content_has_no_answer(model: Any, nothing: Any) -> None:
    """Empty levels and no confidence, between rows that are answered as if it were not there."""
    told = model.predict(pd.DataFrame({"text": pd.Series([NAMES[0], nothing, NAMES[3]], dtype=object)}))
    alone = model.predict(pd.DataFrame({"text": [NAMES[0], NAMES[3]]}))
    assert told.iloc[1][["department", "category"]].tolist() == ["", ""]
    assert told.iloc[1][["confidence", "score"]].isna().all()
    assert told.iloc[[0, 2]].reset_index(drop=True).equals(alone)


def test_no_rows_give_no_answers(model: Any) -> None:
    """With their columns."""
    told = model.predict(pd.DataFrame({"text": pd.Series([], dtype=str)}))
    assert (told.shape, list(told.columns)) == ((0, 4), ["department", "category", "confidence", "score"])


def test_a_wrong_column_is_named(model: Any) -> None:
    """By MLflow where it checks the signature, and by the model itself where nobody did."""
    from mlflow.exceptions import MlflowException

    from tasks.errors import InputError

    frame = pd.DataFrame({"name": NAMES})
    with pytest.raises(MlflowException, match="text"):
        model.predict(frame)
    with pytest.raises(InputError, match=r"column 'text' is missing.*It has: name"):
        model.unwrap_python_model().predict(None, frame)


def test_images_come_as_bytes(tmp_path: Path) -> None:
    """A binary column in; a null and an image that cannot be read are rows without an answer."""
    import io

    import mlflow
    from PIL import Image

    def image(shade: int) -> bytes:
        stream = io.BytesIO()
        picture = Image.new("L", (8, 8), shade)
        picture.putpixel((shade % 8, 3), 255 - shade)
        picture.save(stream, "PNG")
        return stream.getvalue()

    pictures = [image(shade) for shade in range(0, 250, 10)]
    settings = EncoderSettings("pixels:4")
    truth = np.arange(len(pictures)) % 2
    head = LinearHead(3.0).fit(load_encoder(settings).encode(pictures), truth, n_leaves=2, seed=0)
    student = Student(Taxonomy(("kind",), ("even", "odd"), {}), head, "linear", "image", settings)
    registered(tmp_path, student)
    model = mlflow.pyfunc.load_model("models:/shop@champion")
    assert [(c["name"], c["type"]) for c in model.metadata.signature.inputs.to_dict()] == [
        ("image", "binary")
    ]
    told = model.predict(pd.DataFrame({"image": [None, *pictures[:3], b"no image", *pictures[3:]]}))
    answers = student.answers(load_encoder(settings).encode(pictures))
    assert told["kind"].tolist() == ["", *answers.labels[:3], "", *answers.labels[3:]]
    assert told["confidence"].isna().sum() == 2
    assert len(model.predict(model.input_example)) == 1


def test_spark_gives_the_same_answers(registry: Registry, model: Any, tmp_path: Path) -> None:
    """`spark_udf` over a parquet of texts on two workers: every row answered as MLflow alone answers it."""
    pytest.importorskip("pyspark", reason='PySpark is not installed: pip install -e ".[spark]"')
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Spark needs Java 17, which is not on this machine")
    rows = pl.DataFrame(
        {
            "id": range(200),
            "text": [None if row % 50 == 7 else f"{NAMES[row % len(NAMES)]} {row}" for row in range(200)],
        }
    )
    rows.write_parquet(tmp_path / "texts.parquet", row_group_size=64)
    # A process of its own: what Spark changes in one (signals, a gateway, log settings) ends with it.
    done = subprocess.run(
        [sys.executable, "-m", "tests.promotion.on_spark", registry.tracking_uri, "models:/shop@champion",
         str(tmp_path / "texts.parquet"), str(tmp_path / "answers.parquet")],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = pl.read_parquet(tmp_path / "answers.parquet").sort("id")
    alone = model.predict(rows.select("text").to_pandas())
    assert told["id"].to_list() == rows["id"].to_list()
    for level in ("department", "category"):
        assert told[level].to_list() == alone[level].tolist()
    confidences = told["confidence"].fill_null(float("nan")).to_numpy()
    np.testing.assert_allclose(confidences, alone["confidence"], atol=1e-6)
    assert np.isnan(confidences).sum() == 4
