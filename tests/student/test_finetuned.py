"""An encoder trained further is an encoder again, its head a head, and both together answer as they were trained to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.cleaning.steps import clean_snapshot
from tasks.embedding.encoders import EncoderSettings, load_encoder
from tasks.embedding.settings import fingerprint
from tasks.errors import TrainingError
from tasks.project import load_project
from tasks.promotion.steps import promote_challenger
from tasks.promotion.tracking import registry_of
from tasks.records import text_key
from tasks.store import open_store
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tasks.store.policies import policy_in_force
from tasks.student import finetuned
from tasks.student.finetuned import FinetunedStudent, settle
from tasks.student.finetuning import Finetuning
from tasks.student.package import Student, load_student
from tasks.student.steps import recalibrate_champion, take_snapshot, train_and_register
from tasks.student.training import Rows, train_candidates
from tasks.taxonomy import Taxonomy
from tests.conftest import TINY_LEAVES, write_tiny_project
from tests.monitoring.filled import items_of

pytestmark = pytest.mark.slow

NOUNS = (("kettle", "toaster"), ("shirt", "sock"), ("novel", "atlas"))
FILLERS = ("red", "blue", "small", "large", "new", "old")
PLACES = np.array([0, 2, 3])
TAXONOMY = Taxonomy(("area", "kind"), ("home > kitchen", "home > garden", "wear", "books"), {})


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> EncoderSettings:
    """A transformer of one layer and sixteen dimensions that knows these words and nothing about them."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    shop = sorted({word for nouns in TINY_LEAVES.values() for noun in nouns for word in noun.lower().split()})
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *FILLERS,
        *(noun for nouns in NOUNS for noun in nouns),
        *shop,
    ]
    words = list(dict.fromkeys(words))
    (folder / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(
            folder
        )
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    whole = tmp_path_factory.mktemp("encoder")
    SentenceTransformer(str(folder), device="cpu").save_pretrained(str(whole), create_model_card=False)
    return EncoderSettings(str(whole), prefix="new ", device="cpu")


def texts_of(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Three words a text, of which one tells the label."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    words = [[*rng.choice(FILLERS, 2), NOUNS[label][int(rng.integers(2))]] for label in y]
    return [" ".join(rng.permutation(some)) for some in words], PLACES[y]


def training(tiny: EncoderSettings, home: Path, **changed: Any) -> Finetuning:
    return replace(Finetuning(tiny, home, epochs=6, batch=6, learning_rate=1e-2), **changed)


@pytest.fixture(scope="module")
def trained(
    tiny: EncoderSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FinetunedStudent, np.ndarray]:
    """Cross-fitted and fitted on 180 texts in three labels of four; and its out-of-fold probabilities."""
    texts, y = texts_of(180)
    student = FinetunedStudent(training(tiny, tmp_path_factory.mktemp("home")))
    P = student.cross_fit(texts, y, np.arange(180) % 4, n_leaves=4, seed=0)
    return student.fit(texts, y, n_leaves=4, seed=0), P


def test_it_learns_what_the_encoder_did_not_know(trained: tuple[FinetunedStudent, np.ndarray]) -> None:
    """Right on texts it has not seen, out of fold too; leaves never seen are exactly 0; one encoder is kept."""
    student, oof = trained
    assert (oof.argmax(axis=1) == texts_of(180)[1]).mean() > 0.9
    texts, y = texts_of(60, seed=1)
    P = student.predict_proba(texts)
    assert (P.argmax(axis=1) == y).mean() > 0.9
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-5)
    assert np.all(P[:, 1] == 0)
    assert np.all(oof[:, 1] == 0)
    assert 1 <= int(student.settings()["epochs"]) <= 6
    assert len(list(student.training.home.iterdir())) == 1, "those of the trials are gone"
    assert student.predict_proba([]).shape == (0, 4)


def test_as_a_student_it_is_saved_without_pickle_and_answers_the_same(
    trained: tuple[FinetunedStudent, np.ndarray], tmp_path: Path
) -> None:
    """The folder carries the encoder; loaded elsewhere, vectors and answers are the same; so they are in ONNX."""
    model, _ = trained
    student = Student(TAXONOMY, model.head, "finetuned", "text", model.encoder, 0.9)
    texts, _ = texts_of(30, seed=2)
    vectors = load_encoder(student.encoder).encode(texts)
    np.testing.assert_allclose(model.head.predict_proba(vectors), model.predict_proba(texts), atol=1e-6)
    student.save(tmp_path / "student")
    suffixes = {file.suffix for file in (tmp_path / "student").rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt", ".md"}
    loaded = load_student(tmp_path / "student")
    assert loaded.encoder.model == str(tmp_path / "student" / "encoder")
    assert loaded.encoder.prefix == "new "
    np.testing.assert_array_equal(load_encoder(loaded.encoder).encode(texts), vectors)
    np.testing.assert_array_equal(loaded.score(vectors)[1], student.score(vectors)[1])
    loaded.save(tmp_path / "student")  # onto itself: its encoder is not lost
    assert load_student(tmp_path / "student").answers(vectors).labels == student.answers(vectors).labels
    if onnx_is_installed():
        from tasks.student.onnx_comparison import OnnxStudent
        from tasks.student.onnx_export import export_onnx

        export_onnx(student, tmp_path / "onnx", vectors, model_version="1")
        P, _, _ = OnnxStudent(tmp_path / "onnx" / "head.onnx").run(vectors)
        np.testing.assert_allclose(P, student.probabilities(vectors), atol=2e-5)
        labels = json.loads((tmp_path / "onnx" / "labels.json").read_text(encoding="utf-8"))
        assert labels["reads"]["encoder"]["model"] == "encoder"
        beside = replace(student.encoder, model=str(tmp_path / "onnx" / "encoder"))
        np.testing.assert_array_equal(load_encoder(beside).encode(texts), vectors)


def onnx_is_installed() -> bool:
    from importlib.util import find_spec

    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


def test_its_encoder_has_one_name_wherever_it_comes_from(
    trained: tuple[FinetunedStudent, np.ndarray], tmp_path: Path
) -> None:
    """Two downloads of one version settle in one place, so that vectors are cached once."""
    model, _ = trained
    student = Student(TAXONOMY, model.head, "finetuned", "text", model.encoder)
    for place in ("first", "second"):
        student.save(tmp_path / place)
    home = tmp_path / "home"
    settled = [settle(load_student(tmp_path / place).encoder, home) for place in ("first", "second")]
    assert fingerprint(settled[0]) == fingerprint(settled[1])
    assert [path.name for path in home.iterdir()] == [Path(settled[0].model).name]
    assert settle(settled[0], home) == settled[0]
    assert settle(model.encoder, model.training.home) == model.encoder, (
        "what was trained here lies there already"
    )
    texts, _ = texts_of(5)
    np.testing.assert_array_equal(
        load_encoder(settled[0]).encode(texts), load_encoder(model.encoder).encode(texts)
    )


def test_the_same_seed_trains_the_same_student(tiny: EncoderSettings, tmp_path: Path) -> None:
    """To the last bit, whatever torch's global generator did; the start is left as it was."""
    import torch

    texts, y = texts_of(48)
    before = load_encoder(tiny).encode(texts[:3])
    found = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        student = FinetunedStudent(training(tiny, tmp_path, epochs=2), epochs=1)
        found.append(student.fit(texts, y, n_leaves=4, seed=5).predict_proba(texts))
    assert np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(load_encoder(tiny).encode(texts[:3]), before)


def test_training_ends_where_it_is_told_to(tiny: EncoderSettings, tmp_path: Path) -> None:
    """`max_steps` bounds a training whatever the epochs say: one small step leaves the labels unlearned."""
    texts, y = texts_of(90)
    hurried = FinetunedStudent(training(tiny, tmp_path, max_steps=1, learning_rate=1e-5), epochs=4)
    P = hurried.fit(texts, y, n_leaves=4, seed=0).predict_proba(texts)
    assert P.max() < 0.6


def test_weights_decide_what_is_learned(tiny: EncoderSettings, tmp_path: Path) -> None:
    """A second label of next to no weight on every text changes no answer."""
    texts, y = texts_of(120)
    wrong = np.where(y == 0, 2, 0)
    weight = np.concatenate([np.ones(120), np.full(120, 1e-3)]).astype(np.float32)
    student = FinetunedStudent(training(tiny, tmp_path), epochs=4)
    student.fit([*texts, *texts], np.concatenate([y, wrong]), weight, n_leaves=4, seed=0)
    assert (student.predict_proba(texts).argmax(axis=1) == y).mean() > 0.9


@pytest.mark.parametrize("labels", [[0], [2, 2], [0, 3, 3]])
def test_tiny_and_lopsided_data_work(labels: list[int], tiny: EncoderSettings, tmp_path: Path) -> None:
    """One text, one label, a label with one example."""
    texts = [f"red {word}" for word in ("kettle", "sock", "atlas")][: len(labels)]
    student = FinetunedStudent(training(tiny, tmp_path, epochs=1))
    P = student.fit(texts, np.array(labels), n_leaves=4, seed=0).predict_proba(texts)
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-5)
    assert np.all(P[:, np.setdiff1d(np.arange(4), labels)] == 0)


def test_it_is_compared_like_the_others(tiny: EncoderSettings, tmp_path: Path) -> None:
    """Beside a linear head on the encoder as it was, which knows nothing of these words: it wins."""
    texts, y = texts_of(96)
    X, folds = load_encoder(tiny).encode(texts), (np.arange(96) % 4).astype(np.int16)
    y = y.copy()
    y[-3:] = -1  # judged only
    rows = Rows(X, y, y, folds, np.ones(96, np.float32), texts=texts)
    settings = training(tiny, tmp_path)
    candidates, winner = train_candidates(["finetuned", "linear"], rows, 4, 0, finetuning=settings)
    losses = {candidate.name: candidate.loss for candidate in candidates}
    assert winner == min(losses, key=lambda name: losses[name])
    assert candidates[0].settings["start"] == tiny.model
    with pytest.raises(TrainingError, match="`finetuned` reads texts"):
        train_candidates(["finetuned"], replace(rows, texts=None), 4, 0, finetuning=settings)


def test_an_encoder_that_cannot_be_trained_is_named(tmp_path: Path) -> None:
    """An endpoint, pixels and hashes have no weights here: said before anything is trained."""
    for model in ("hash:64", "openai:text-embedding-3-small"):
        with pytest.raises(TrainingError, match=f"`finetuned` trains .* which {model} is not"):
            FinetunedStudent(Finetuning(EncoderSettings(model), tmp_path))


def test_no_row_is_judged_by_what_learned_from_its_fold() -> None:
    """Halves are whole folds, in turn; rows that go with a fold without being judged stay with its half."""
    folds = np.array([0, 4, 7, 9, -1, -5, -8, 4])
    assert finetuned._halves(folds).tolist() == [0, 1, 0, 1, -1, -2, -1, 1]
    watched = finetuned._watched(np.array([0, 0, 2, 2, 2, 4, -3]), 0)
    assert 0 < watched.sum() < 6
    assert not watched[-1]
    for fold in (0, 2, 4):
        inside = watched[:-1][np.array([0, 0, 2, 2, 2, 4]) == fold]
        assert inside.all() or not inside.any()


def test_a_retrain_registers_it_and_it_serves(tiny: EncoderSettings, tmp_path: Path) -> None:
    """From labels to a champion with its policy: gate, recalibration, routing's vectors and MLflow's own loading."""
    import mlflow
    import pandas as pd

    student = {"candidates": ["finetuned"], "finetune": {"epochs": 3, "batch": 8, "learning_rate": 1e-2}}
    file = write_tiny_project(
        tmp_path / "conf",
        encoder={"model": tiny.model, "prefix": "new ", "device": "cpu", "precision": "float32"},
        student=student,
        routing={"target_error": 0.4, "confidence": 0.8},
        task={"other": None},
    )
    project = load_project(file, tmp_path)
    store = open_store(project.database_url, project.project)
    nouns, leaves = list(TINY_LEAVES.values()), [" > ".join(leaf) for leaf in TINY_LEAVES]
    names = [f"{nouns[n % 6][n // 6 % 5]} {FILLERS[n // 30]} {n}" for n in range(150)]
    append_items(store, items_of(names), "source", 1)
    append_labels(store, [(text_key(name), leaves[n % 6], "consensus") for n, name in enumerate(names)], 1)
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    retrained = train_and_register.fn(project, cleaned, 1)
    assert retrained.student == "finetuned"
    assert promote_challenger.fn(project).promoted
    registry = registry_of(project)
    champion = registry.load(retrained.model_version)
    assert Path(champion.encoder.model).parent == tmp_path / "var" / "encoders"
    assert registry.encoders() == [champion.encoder], "what a pruning of the cache must leave alone"
    answers = champion.answers(load_encoder(champion.encoder).encode(names))
    right = np.mean([said == leaves[n % 6] for n, said in enumerate(answers.labels)])
    assert right > 0.8
    assert policy_in_force(store, "1") is not None
    assert recalibrate_champion.fn(project, 2) == policy_in_force(store, "1")
    model = mlflow.pyfunc.load_model("models:/tiny@champion")
    served = model.predict(pd.DataFrame({"text": names[:9]}))
    assert [" > ".join(row) for row in served[["department", "category"]].to_numpy()] == answers.labels[:9]
    store.close()
