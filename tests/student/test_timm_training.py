"""How image students train: which weights change, what is kept between trainings, what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from tasks.embedding.settings import EncoderSettings
from tasks.errors import TrainingError
from tasks.project import Student
from tasks.student import package
from tasks.student.frozen_features import FrozenFeatures
from tasks.student.image_network import mixed_precision
from tasks.student.image_pixels import augmented, normalised
from tasks.student.image_training import Recipe, _layers, _unfreeze, train
from tasks.student.onnx_comparison import IMAGE_TOLERANCE
from tasks.student.onnx_export import export_onnx
from tasks.student.timm_student import MEAN, STD, TimmStudent
from tasks.student.training import ImageTraining, Rows, train_candidates
from tasks.taxonomy import Taxonomy
from tests.student.test_timm_student import stripes

MODEL = "test_efficientnet"  # timm's own for tests: 100,000 weights, normalised by batches
CLASSIFIER = ("classifier.weight", "classifier.bias")


def file_of(model: str, folder: Path, **sizes: int) -> str:
    """A file of weights as a hub would give them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = timm.create_model(model, pretrained=False, **sizes)
    save_file(net.state_dict(), folder / f"{model}.safetensors")
    return str(folder / f"{model}.safetensors")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return file_of(MODEL, tmp_path_factory.mktemp("weights"))


def student(weights: str | None, **settings: Any) -> TimmStudent:
    small: dict[str, Any] = {"image_size": 32, "epochs": 4, "batch": 8, "device": "cpu"}
    return TimmStudent(MODEL, pretrained=weights is not None, weights=weights, **small | settings)


def changed(trained: TimmStudent, weights: str) -> set[str]:
    """Names of the tensors that are no longer as in the file."""
    from safetensors.torch import load_file

    before = load_file(weights)
    return {
        name
        for name, now in trained._net.state_dict().items()
        if now.shape != before[name].shape or not torch.equal(now, before[name])
    }


def test_frozen_trains_the_classifier_alone_and_is_the_default_without_a_gpu(
    weights: str, tmp_path: Path
) -> None:
    """Not a bit of what lies below changes, and it is saved and loaded to the bit."""
    images, y = stripes(48)
    trained = student(weights, train="auto").fit(images, y, n_leaves=5, seed=0)
    assert trained.settings()["train"] == "frozen"
    assert changed(trained, weights) == set(CLASSIFIER)
    P = trained.predict_proba(images)
    assert (P.argmax(axis=1) == y).mean() > 0.9
    trained.save(tmp_path)
    assert np.array_equal(TimmStudent.load(tmp_path).predict_proba(images), P)


def test_a_frozen_classifier_scores_as_the_linear_head_on_the_features_does(weights: str) -> None:
    """Centring and scaling of the features are undone in the weights, the temperature is in them."""
    images, y = stripes(30)
    trained = student(weights, train="frozen").fit(images, y, n_leaves=5, seed=0)
    net = timm.create_model(MODEL, pretrained=True, pretrained_cfg_overlay={"file": weights}, num_classes=2)
    X = FrozenFeatures().of(
        net, images, lambda part: normalised(trained._decoded(images, part, None), MEAN, STD), "cpu"
    )
    from tasks.student.linear import LinearHead

    centred = X - X.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1).mean()
    head = LinearHead().fit(centred, y // 2, n_leaves=2, seed=0)
    np.testing.assert_allclose(
        trained.predict_proba(images)[:, [1, 3]], head.predict_proba(centred), atol=1e-4
    )


def test_gradual_unfreezes_from_the_top(weights: str) -> None:
    """In one epoch only the topmost layer learns and nothing else moves, statistics included; in four all do."""
    images, y = stripes(32)
    once = student(weights, train="gradual", epochs=1).fit(images, y, n_leaves=5, seed=0)
    probe = student(weights, train="frozen").fit(images, y, n_leaves=5, seed=0)
    assert changed(once, weights) == set(CLASSIFIER)
    assert not np.array_equal(once.predict_proba(images), probe.predict_proba(images))
    four = student(weights, train="gradual").fit(images, y, n_leaves=5, seed=0)
    assert {name for name, _ in four._net.named_parameters()} <= changed(four, weights)
    assert (four.predict_proba(images).argmax(axis=1) == y).mean() > 0.9


def test_layers_are_opened_downwards_and_the_lower_ones_at_a_lower_rate() -> None:
    """Between top and bottom: open layers learn and gather statistics, those below do neither."""
    net = timm.create_model(MODEL, num_classes=2)
    recipe = Recipe("gradual", True, 6, 8, 1e-2, False, MEAN, STD, "cpu")
    layers = _layers(net, recipe)
    assert [depth for depth, _, _ in layers] == [0, 1, 2, 3, 4, 5, 6]
    rates = [rate for _, rate, _ in layers]
    assert rates[0] == pytest.approx(1e-3)
    assert rates == sorted(rates, reverse=True)
    assert sum(len(parameters) for _, _, parameters in layers) == len(list(net.parameters()))
    _unfreeze(net, layers, 2)
    learning = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    above = ("blocks.3", "blocks.4", "conv_head", "bn2", "classifier")
    assert learning == {name for name, _ in net.named_parameters() if name.startswith(above)}
    assert net.bn2.training
    assert not net.bn1.training


def test_full_trains_all_pretrained_layers_from_the_first_epoch(weights: str) -> None:
    images, y = stripes(32)
    trained = student(weights, train="full", epochs=1).fit(images, y, n_leaves=5, seed=0)
    assert {name for name, _ in trained._net.named_parameters()} <= changed(trained, weights)


def test_lower_layers_move_less(weights: str) -> None:
    """After as many steps with AdamW, whose steps are as long as the rate, the stem is nearer to where it began."""
    from safetensors.torch import load_file

    images, y = stripes(64)
    trained = student(weights, train="gradual", epochs=6).fit(images, y, n_leaves=5, seed=0)
    before, now = load_file(weights), trained._net.state_dict()
    stem, top = ((now[name] - before[name]).abs().max() for name in ("conv_stem.weight", "conv_head.weight"))
    assert 0 < stem < top / 2


def test_without_pretrained_weights_everything_learns_whatever_is_asked() -> None:
    assert {student(None, train=how).trained_on("cpu") for how in ("auto", "frozen", "gradual", "full")} == {
        "full"
    }
    asked = student("a file", train="auto")
    assert (asked.trained_on("cpu"), asked.trained_on("cuda")) == ("frozen", "gradual")


@pytest.mark.parametrize("how", ["scratch", "frozen", "gradual"])
def test_the_same_seed_gives_the_same_student(weights: str, how: str) -> None:
    """To the bit, whatever was drawn before; what is drawn after it is none of its business."""
    images, y = stripes(24)

    def fitted(seed: int) -> np.ndarray:
        made = student(None) if how == "scratch" else student(weights, train=how)
        return made.fit(images, y, n_leaves=5, seed=seed).predict_proba(images)

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = fitted(3)
    assert torch.equal(torch.rand(1), expected)
    assert np.array_equal(fitted(3), first)
    if how != "frozen":
        assert not np.array_equal(fitted(4), first)


def test_features_are_computed_once_for_an_image_while_they_fit() -> None:
    """Halves and then the whole, as a cross-fit asks: each image is computed once; beyond the room again."""
    net = timm.create_model(MODEL, num_classes=2)
    images = [bytes([number]) for number in range(6)]
    pixels, read = torch.rand(6, 3, 32, 32), []

    def ask(features: FrozenFeatures, rows: list[int]) -> np.ndarray:
        def some(part: slice) -> Any:
            read.extend(rows[part])
            return pixels[rows[part]]

        return features.of(net, [images[row] for row in rows], some, "cpu")

    kept = FrozenFeatures()
    halves = ask(kept, [0, 2, 4]), ask(kept, [1, 3, 5])
    whole = ask(kept, [0, 1, 2, 3, 4, 5])
    assert sorted(read) == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(whole[[0, 2, 4]], halves[0])
    assert np.array_equal(whole[[1, 3, 5]], halves[1])
    read.clear()
    small = FrozenFeatures(most_bytes=2 * whole[0].nbytes)
    for _ in range(2):
        np.testing.assert_allclose(ask(small, [0, 1, 2]), whole[:3], atol=1e-5)
    assert read == [0, 1, 2, 0, 1, 2]
    assert ask(small, [0, 1]).shape == (2, whole.shape[1])
    assert read == [0, 1, 2, 0, 1, 2]


def test_the_candidate_trains_by_its_settings(weights: str) -> None:
    """A cross-fit and the fit on all run each image through the frozen network once to learn from it."""
    images, y = stripes(32)
    rows = Rows(
        np.ones((32, 1), np.float32),
        y,
        y,
        np.arange(32, dtype=np.int16) // 2 % 2,
        np.ones(32, np.float32),
        images,
    )
    settings = ImageTraining(MODEL, True, 2, 32, weights, "frozen", device="cpu")
    [candidate], _ = train_candidates(("timm",), rows, 5, 0, settings)
    assert candidate.settings["train"] == "frozen"
    assert (candidate.out_of_fold.argmax(axis=1) == y).mean() > 0.9
    assert changed(candidate.model, weights) == set(CLASSIFIER)
    alone = student(weights, train="frozen").fit(images, y, n_leaves=5, seed=0)
    np.testing.assert_allclose(candidate.model.predict_proba(images), alone.predict_proba(images), atol=1e-4)


def test_settings_that_contradict_each_other_are_refused() -> None:
    for contradiction in ({"train": "frozen"}, {"train": "gradual"}, {"weights": "a file"}):
        with pytest.raises(ValidationError, match="no weights to start from or to freeze"):
            Student.model_validate({"pretrained": False, "timm": contradiction})
    assert Student.model_validate({"pretrained": False, "timm": {"train": "full"}}).timm.train == "full"


def test_every_image_is_varied_by_a_draw_of_its_own() -> None:
    """Moved, lit and mirrored differently within a batch, by the seed alone, between 0 and 255."""
    image = torch.arange(32, dtype=torch.uint8).mul(7).expand(3, 32, 32)
    batch = image.repeat(40, 1, 1, 1)

    def varied(seed: int, flip: bool) -> Any:
        return augmented(batch, torch.Generator().manual_seed(seed), flip=flip)

    plain = varied(0, False)
    assert torch.equal(varied(0, False), plain)
    assert not torch.equal(varied(1, False), plain)
    assert plain.min() >= 0
    assert plain.max() <= 255
    assert len({tuple(row.tolist()) for row in plain[:, 0, 0]}) == 40
    assert (
        len({int((row.diff() == 0).sum()) for row in plain[:, 0, 0]}) > 2
    )  # repeated edges: moved by so much
    rising = (plain[:, 0, 0].diff() >= 0).all(dim=1)
    assert rising.all()  # never mirrored unless asked
    mirrored = ~(varied(0, True)[:, 0, 0].diff() >= 0).all(dim=1)
    assert 5 < mirrored.sum() < 35


@pytest.mark.parametrize(("precision", "epochs"), [(torch.bfloat16, 25), (torch.float16, 2)])
def test_mixed_precision_leaves_weights_in_float32(precision: torch.dtype, epochs: int) -> None:
    """On the processor, where torch can do it too, if slowly: it learns, its loss scaled for float16."""
    images, y = stripes(48 if epochs > 2 else 12)
    made = student(None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = made._create(False, 2)
        pixels, target = made._decoded(images, slice(0, len(y)), None), torch.from_numpy(y // 2)
        recipe = Recipe("full", False, epochs, 8, 3e-3, False, MEAN, STD, "cpu", precision)
        before = net.conv_stem.weight.clone()
        train(net, pixels, target, torch.ones(len(y)), recipe, 0)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert not torch.equal(net.conv_stem.weight, before)
    with torch.inference_mode():
        scores = net(normalised(pixels, MEAN, STD))
    assert scores.isfinite().all()
    if epochs > 2:
        assert (scores.argmax(dim=1) == target).float().mean() > 0.9


def test_mixed_precision_is_for_cuda() -> None:
    assert mixed_precision("cpu") is None
    assert mixed_precision("mps") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_named_device_that_is_not_there_is_told() -> None:
    images, y = stripes(4)
    with pytest.raises(TrainingError, match="there is no cuda here") as caught:
        student(None, device="cuda").fit(images, y, n_leaves=5, seed=0)
    assert "student.timm.device" in str(caught.value)


def test_a_transformer_takes_the_size_and_the_statistics_it_asks_for(tmp_path: Path) -> None:
    """A model of one input size is made for the configured one; its own channel statistics are saved with it."""
    images, y = stripes(24)
    weights = file_of("test_vit", tmp_path, img_size=32)
    made = TimmStudent("test_vit.r160_in1k", weights=weights, image_size=32, train="frozen", device="cpu")
    P = made.fit(images, y, n_leaves=5, seed=0).predict_proba(images)
    assert made.mean == (0.5, 0.5, 0.5)
    made.save(tmp_path)
    loaded = TimmStudent.load(tmp_path)
    assert tuple(loaded.mean) == (0.5, 0.5, 0.5)
    assert np.array_equal(loaded.predict_proba(images), P)


def test_the_graph_normalises_as_the_model_asks(tmp_path: Path) -> None:
    """Exported from a student whose channel statistics are its own, it says what the student says."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    images, y = stripes(24)
    head = TimmStudent("test_convnext", pretrained=False, image_size=32, epochs=2, batch=8, device="cpu")
    head.fit(images, y, n_leaves=5, seed=0)
    assert head.mean == (0.5, 0.5, 0.5)
    taxonomy = Taxonomy(("label",), ("a", "b", "c", "d", "e"), {}, None)
    whole = package.Student(taxonomy, head, "timm", "image", EncoderSettings("pixels:8"))
    done = export_onnx(whole, tmp_path, images, model_version="1")
    assert done.float32.largest <= IMAGE_TOLERANCE


@pytest.mark.parametrize("how", ["frozen", "gradual"])
@pytest.mark.parametrize("labels", [[2], [2, 2, 2], [0, 4], [0, 0, 0, 4]])
def test_very_few_images_or_labels_train(weights: str, how: str, labels: list[int]) -> None:
    """One image, one label, or a label with one image."""
    images, _ = stripes(len(labels))
    made = student(weights, train=how, epochs=2).fit(images, np.array(labels), n_leaves=5, seed=0)
    P = made.predict_proba(images)
    np.testing.assert_allclose(P[:, sorted(set(labels))].sum(axis=1), 1, atol=1e-5)


def test_what_cannot_be_had_or_trained_that_way_is_told(tmp_path: Path) -> None:
    images, y = stripes(4)
    (tmp_path / "torn.safetensors").write_bytes(b"\0" * 40)
    for weights in (tmp_path / "missing.safetensors", tmp_path / "torn.safetensors"):
        with pytest.raises(TrainingError, match="cannot be had with pretrained weights"):
            student(str(weights)).fit(images, y, n_leaves=5, seed=0)
    two_heads = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, num_classes=2, depth=1)
    with pytest.raises(TrainingError, match="no linear classifier"):
        FrozenFeatures().of(two_heads, [b"1"], lambda part: torch.zeros(1, 3, 32, 32), "cpu")
    with pytest.raises(TrainingError, match="random weights for images of 33 pixels"):
        TimmStudent("test_vit", pretrained=False, image_size=33).fit(images, y, n_leaves=5, seed=0)
