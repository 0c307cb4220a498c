"""A small image model as student: any timm architecture, trained on encoded images.

Knows bytes of images and leaf indices. Pretrained weights are trained further as far as the machine allows; without
them it starts from random ones, which is enough for small, simple pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.student.calibration import apply_temperature
from tasks.student.frozen_features import IMAGES_AT_ONCE, FrozenFeatures, fit_classifier
from tasks.student.heads import read_arrays, read_settings, seen_leaves, spread, write_head
from tasks.student.image_network import create_network, device_of, mixed_precision, seeded
from tasks.student.image_pixels import decode_images, normalised
from tasks.student.image_training import Recipe, Trained, train
from tasks.student.threads import threads_for

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's channel statistics, of students saved without their own."""


class TimmStudent:
    """An image classifier with the same two movements as a head, minus the tuning.

    Args:
        model: a timm architecture, with or without the tag of its weights.
        pretrained: start from timm's weights (needs its hub or cache) or from random ones.
        weights: a safetensors file of pretrained weights, instead of the hub's.
        image_size: side in pixels that images are resized to.
        epochs: passes over the images; `frozen` needs none.
        batch: images a step; fewer where there are few.
        learning_rate: the peak of a one-cycle schedule, of layers that are not pretrained.
        train: which weights learn. `frozen`: the classifier alone, on features computed once; `gradual`: the classifier
            like that, then all layers from the top downwards; `full`: all from the first step. `auto` is `gradual` on a
            GPU and `frozen` without one. Random weights are always trained in full.
        flip: whether training images may be mirrored left to right; digits and letters must not.
        device: to train on, and to predict many images on: auto (CUDA where it is), cpu, cuda or mps.
        features: keeps frozen features from one training to the next with the same pretrained weights.
    """

    def __init__(
        self,
        model: str = "mobilenetv3_small_100",
        *,
        pretrained: bool = True,
        weights: str | None = None,
        image_size: int = 64,
        epochs: int = 12,
        batch: int = 64,
        learning_rate: float = 3e-3,
        train: Literal["auto"] | Trained = "auto",
        flip: bool = False,
        device: str = "auto",
        features: FrozenFeatures | None = None,
    ):
        self.model, self.pretrained, self.weights, self.image_size = model, pretrained, weights, image_size
        self.epochs, self.batch, self.learning_rate = epochs, batch, learning_rate
        self.train, self.flip, self.device = train, flip, device
        self.features = features
        self.temperature = 1.0
        self.n_leaves = 0
        self.seen = np.zeros(0, np.int64)
        self.mean: Sequence[float] = MEAN
        self.std: Sequence[float] = STD
        self._net: Any = None

    def trained_on(self, device: str) -> Trained:
        """Which weights learn on that device."""
        if not self.pretrained:
            return "full"
        if self.train != "auto":
            return self.train
        return "frozen" if device == "cpu" else "gradual"

    def fit(
        self,
        images: Sequence[bytes],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None = None,
        *,
        n_leaves: int,
        seed: int,
        names: Sequence[str] | None = None,
    ) -> Self:
        """Train on all images; the same seed gives the same student on the same machine.

        Args:
            images: encoded (JPEG, PNG, whatever Pillow reads), n of them.
            y: leaf indices [n] in [0, n_leaves).
            weight: non-negative [n].
            n_leaves: columns of every probability array.
            seed: of weights, order and augmentation.
            names: what to call each image in an error; its number by default.

        Raises:
            InputError: an image cannot be read; its name and row stand in the error.
            TrainingError: no images, labels out of range, pretrained weights or the device out of reach, or a model
                that cannot be trained that way.
        """
        import torch

        if not len(y) or len(images) != len(y) or y.min() < 0 or y.max() >= n_leaves:
            raise TrainingError(
                f"{len(images)} images with {len(y)} labels for {n_leaves} leaves", "label some images first"
            )
        device = device_of(self.device)
        trained = self.trained_on(device)
        pixels = None if trained == "frozen" else self._decoded(images, slice(0, len(images)), names)
        self.seen, dense = seen_leaves(y)
        self.n_leaves = n_leaves

        def ready(part: slice) -> Any:
            read = self._decoded(images, part, names) if pixels is None else pixels[part]
            return normalised(read, self.mean, self.std)

        with seeded(seed, device):
            net = self._create(self.pretrained, len(self.seen)).to(device)
            if trained != "full":
                features = self.features or FrozenFeatures()
                fit_classifier(net, features.of(net, images, ready, device), dense, weight, seed)
            if pixels is not None:
                recipe = Recipe(
                    trained,
                    self.pretrained,
                    self.epochs,
                    max(2, min(self.batch, len(y) // 4)),
                    self.learning_rate,
                    self.flip,
                    self.mean,
                    self.std,
                    device,
                    mixed_precision(device),
                )
                share = np.ones(len(y)) if weight is None else weight / weight.mean()
                w = torch.from_numpy(share.astype(np.float32))
                # Few pixels an image: as little work a step as a small MLP's.
                with threads_for(len(y) * self.image_size // 64):
                    train(net, pixels, torch.from_numpy(dense), w, recipe, seed)
        self._net = net.to("cpu").eval()
        return self

    def predict_proba(
        self, images: Sequence[bytes], names: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """float32 [n, n_leaves], rows summing to 1; exactly 0 for a leaf that training never saw.

        Raises:
            InputError: an image cannot be read.
        """
        import torch

        if self._net is None:
            raise TrainingError("the image student has not been trained", "fit or load it first")
        device = device_of(self.device) if len(images) > IMAGES_AT_ONCE else "cpu"
        # A copy, because other threads may be asking this one.
        net = self._net if device == "cpu" else deepcopy(self._net).to(device)
        parts = [np.zeros((0, len(self.seen)), np.float32)]
        for start in range(0, len(images), IMAGES_AT_ONCE):
            pixels = self._decoded(images, slice(start, start + IMAGES_AT_ONCE), names).to(device)
            with torch.inference_mode():
                scores = net(normalised(pixels, self.mean, self.std))
                parts.append(torch.softmax(scores, dim=1).cpu().numpy())
        return spread(apply_temperature(np.concatenate(parts), self.temperature), self.seen, self.n_leaves)

    def settings(self) -> dict[str, float | int | str]:
        """What was trained, flat: the parameters of an experiment record."""
        device = device_of(self.device)
        return {
            "kind": "timm",
            "model": self.model,
            "train": self.trained_on(device),
            "pretrained": int(self.pretrained),
            "image_size": self.image_size,
            "epochs": self.epochs,
            "device": device,
        }

    def save(self, folder: Path) -> None:
        """Write `head.json` and `head.safetensors` into an existing folder."""
        settings = {
            "kind": "timm",
            "model": self.model,
            "image_size": self.image_size,
            "n_leaves": self.n_leaves,
            "temperature": self.temperature,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        arrays = {f"net.{name}": tensor.numpy() for name, tensor in self._net.state_dict().items()}
        write_head(folder, settings, {**arrays, "seen": self.seen})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The student that `save` wrote; needs no hub.

        Raises:
            InputError: the folder holds no saved student.
        """
        import torch

        settings, arrays = read_settings(folder), read_arrays(folder)
        student = cls(settings["model"], pretrained=False, image_size=settings["image_size"])
        student.n_leaves, student.temperature = settings["n_leaves"], settings["temperature"]
        student.seen = arrays.pop("seen")
        student._net = student._create(False, len(student.seen)).eval()
        student.mean, student.std = settings.get("mean", MEAN), settings.get("std", STD)
        state = {name.removeprefix("net."): torch.from_numpy(array) for name, array in arrays.items()}
        student._net.load_state_dict(state)
        return student

    def _decoded(self, images: Sequence[bytes], part: slice, names: Sequence[str] | None) -> Any:
        import torch

        some = None if names is None else names[part]
        return torch.from_numpy(decode_images(images[part], self.image_size, some, first_row=part.start))

    def _create(self, pretrained: bool, n_seen: int) -> Any:
        """The network; from now on images are normalised as it wants them."""
        net = create_network(self.model, self.image_size, n_seen, pretrained=pretrained, weights=self.weights)
        self.mean, self.std = net.pretrained_cfg["mean"], net.pretrained_cfg["std"]
        return net
