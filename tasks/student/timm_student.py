"""A small image model as student: any timm architecture, trained end to end on encoded images.

Knows bytes of images and leaf indices. Without pretrained weights it starts from random ones, which is enough for
small, simple pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import InputError, TrainingError
from tasks.student.calibration import apply_temperature
from tasks.student.heads import read_arrays, read_settings, seen_leaves, spread, write_head
from tasks.student.threads import threads_for

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's channel statistics, which timm's pretrained weights expect."""

SHIFT = 0.06
"""Training images are moved by up to this share of their side, so that a position is not learned as a label."""


class TimmStudent:
    """An image classifier with the same two movements as a head, minus the tuning.

    Args:
        model: a timm architecture.
        pretrained: start from timm's weights (needs its hub or cache) or from random ones.
        image_size: side in pixels that images are resized to.
        epochs: passes over the images.
        batch: images a step; fewer where there are few.
        learning_rate: the peak of a one-cycle schedule.
    """

    def __init__(
        self,
        model: str = "mobilenetv3_small_100",
        *,
        pretrained: bool = True,
        image_size: int = 64,
        epochs: int = 12,
        batch: int = 64,
        learning_rate: float = 3e-3,
    ):
        self.model, self.pretrained, self.image_size = model, pretrained, image_size
        self.epochs, self.batch, self.learning_rate = epochs, batch, learning_rate
        self.temperature = 1.0
        self.n_leaves = 0
        self.seen = np.zeros(0, np.int64)
        self._net: Any = None

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
        """Train on all images.

        Args:
            images: encoded (JPEG, PNG, whatever Pillow reads), n of them.
            y: leaf indices [n] in [0, n_leaves).
            weight: non-negative [n].
            n_leaves: columns of every probability array.
            seed: of weights, order and augmentation.
            names: what to call each image in an error; its number by default.

        Raises:
            InputError: an image cannot be read; its name and row stand in the error.
            TrainingError: no images, labels out of range, or pretrained weights out of reach.
        """
        import torch

        if not len(y) or len(images) != len(y) or y.min() < 0 or y.max() >= n_leaves:
            raise TrainingError(
                f"{len(images)} images with {len(y)} labels for {n_leaves} leaves", "label some images first"
            )
        pixels = torch.from_numpy(decode_images(images, self.image_size, names))
        self.seen, dense = seen_leaves(y)
        self.n_leaves = n_leaves
        target = torch.from_numpy(dense)
        w = (
            torch.ones(len(y))
            if weight is None
            else torch.from_numpy(weight.astype(np.float32) / weight.mean())
        )
        # Few pixels an image: as little work a step as a small MLP's.
        with threads_for(len(y) * self.image_size // 64), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self._net = self._create(self.pretrained, len(self.seen))
            generator = torch.Generator().manual_seed(seed)
            batch = max(2, min(self.batch, len(y) // 4))
            steps = self.epochs * -(-len(y) // batch)
            optimizer = torch.optim.AdamW(net.parameters(), lr=self.learning_rate, weight_decay=0.02)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
            loss_of = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=0.05)
            net.train()
            for _ in range(self.epochs):
                for chosen in torch.randperm(len(y), generator=generator).split(batch):
                    if len(chosen) == 1:  # batch normalisation cannot see a single image
                        chosen = chosen.repeat(2)
                    optimizer.zero_grad()
                    scores = net(_normalised(_shifted(pixels[chosen], generator)))
                    (w[chosen] * loss_of(scores, target[chosen])).mean().backward()
                    optimizer.step()
                    schedule.step()
            _settle_statistics(net, pixels, batch)
        net.eval()
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
        parts = [np.zeros((0, len(self.seen)), np.float32)]
        for start in range(0, len(images), 256):
            names_part = None if names is None else names[start : start + 256]
            pixels = decode_images(images[start : start + 256], self.image_size, names_part, first_row=start)
            with torch.inference_mode():
                parts.append(torch.softmax(self._net(_normalised(torch.from_numpy(pixels))), dim=1).numpy())
        return spread(apply_temperature(np.concatenate(parts), self.temperature), self.seen, self.n_leaves)

    def save(self, folder: Path) -> None:
        """Write `head.json` and `head.safetensors` into an existing folder."""
        settings = {
            "kind": "timm",
            "model": self.model,
            "image_size": self.image_size,
            "n_leaves": self.n_leaves,
            "temperature": self.temperature,
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
        state = {name.removeprefix("net."): torch.from_numpy(array) for name, array in arrays.items()}
        student._net.load_state_dict(state)
        return student

    def _create(self, pretrained: bool, n_seen: int) -> Any:
        import timm

        if self.model not in timm.list_models():
            raise TrainingError(f"timm knows no model called {self.model!r}", "see timm.list_models()")
        try:
            return timm.create_model(self.model, pretrained=pretrained, num_classes=n_seen)
        except (OSError, RuntimeError) as error:
            raise TrainingError(
                f"the pretrained weights of {self.model} cannot be fetched ({error})",
                "connect to the hub once, fill its cache, or set pretrained: false",
            ) from error


def decode_images(
    images: Sequence[bytes], size: int, names: Sequence[str] | None = None, first_row: int = 0
) -> NDArray[np.uint8]:
    """uint8 [n, 3, size, size]: each image in RGB, resized (bicubic, its aspect not kept).

    Raises:
        InputError: an image cannot be read; `row` is counted from 1.
    """
    from PIL import Image, UnidentifiedImageError

    pixels = np.empty((len(images), 3, size, size), np.uint8)
    for row, raw in enumerate(images):
        try:
            with Image.open(BytesIO(raw)) as image:
                small = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        except (
            UnidentifiedImageError,
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:
            name = names[row] if names is not None else f"image {first_row + row + 1}"
            raise InputError(
                name,
                f"cannot be read as an image ({error})",
                "replace it or leave it out",
                first_row + row + 1,
            ) from error
        pixels[row] = np.asarray(small).transpose(2, 0, 1)
    return pixels


def _settle_statistics(net: Any, pixels: Any, batch: int) -> None:
    """Average the batch-normalisation statistics over the images once more, with the final weights.

    The running ones lag behind by dozens of steps, which is as long as a small training lasts.
    """
    import torch

    layers = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    usual = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    with torch.no_grad():
        for part in torch.randperm(len(pixels)).split(batch):
            if len(part) > 1:
                net(_normalised(pixels[part]))
    for layer, momentum in zip(layers, usual, strict=True):
        layer.momentum = momentum


def _normalised(pixels: Any) -> Any:
    import torch

    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def _shifted(pixels: Any, generator: Any) -> Any:
    """The whole batch moved by one random offset, edges repeated."""
    import torch

    side = pixels.shape[-1]
    reach = round(side * SHIFT)
    down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    rows = (torch.arange(side) + down).clamp(0, side - 1)
    columns = (torch.arange(side) + right).clamp(0, side - 1)
    return pixels[:, :, rows][:, :, :, columns]
