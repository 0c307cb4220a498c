"""Encodes images by a frozen timm model: its pooled features, of pixels prepared as the model itself says.

Knows timm and its models; nothing of training, caches or projects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.batch_size import BatchSize, TooLargeError, in_batches, share_of_memory_left
from tasks.embedding.encoding import Encoded, Told, all_or_none, dimension_kept, lengthened, shortened
from tasks.embedding.image_decoding import UnreadableImageError, small_image
from tasks.embedding.sentence_encoder import best_device
from tasks.embedding.settings import EncoderSettings
from tasks.errors import EncoderError

SEED = 0  # of random weights
IMAGES_AT_ONCE = 512  # decoded and held: 300 MB at 224 pixels
IMAGES_ON_CPU, MOST_ON_CPU = 8, 128
IMAGES_ON_GPU, MOST_ON_GPU = 64, 4096


class TimmEncoder:
    """`timm:NAME`, without its classifier.

    Args:
        settings: `pretrained` takes timm's weights (from its hub, or the hub's cache), else random ones.

    Raises:
        EncoderError: timm knows no such model, or its weights are out of reach.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        import torch

        self._settings = settings
        self._device = settings.device if settings.device != "auto" else best_device(torch)
        self._net = _net(settings)
        self._whole = int(self._net.num_features)
        try:
            self._net = self._net.to(
                self._device, torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
            )
        except (RuntimeError, AssertionError) as error:
            raise EncoderError(
                settings.model,
                f"cannot be loaded to {self._device} ({str(error).splitlines()[0][:200]})",
                "Set encoder.device to auto or cpu.",
            ) from error
        said = _data_config(self._net)
        self._side = int(said["input_size"][-1])
        self._resampling = _resampling(said["interpolation"])
        # Evaluated as its makers did: scaled so that the middle, of that share, is what the model sees.
        self._scaled = round(self._side / float(said["crop_pct"]))
        self._mean = np.array(said["mean"], np.float32).reshape(3, 1, 1) * 255
        self._std = np.array(said["std"], np.float32).reshape(3, 1, 1) * 255
        with torch.inference_mode():
            self._whole = self._features(np.zeros((1, 3, self._side, self._side), np.uint8)).shape[1]
        self.dimension = dimension_kept(settings.model, self._whole, settings.dimensions)
        first, most = (IMAGES_ON_CPU, MOST_ON_CPU) if self._device == "cpu" else (IMAGES_ON_GPU, MOST_ON_GPU)
        self._size = BatchSize(first, most, share_of_memory_left(self._device))

    def encode(self, contents: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors float32 [n, dimension] of encoded images.

        Raises:
            InputError: an image cannot be read.
        """
        return all_or_none(self.encode_each(contents))

    def encode_each(self, contents: Sequence[Any], told: Told | None = None) -> Encoded:
        """See `Encoder.encode_each`.

        Raises:
            EncoderError: one image alone does not fit into memory.
        """
        out = np.zeros((len(contents), self._whole), np.float32)
        refused: dict[int, str] = {}
        for first in range(0, len(contents), IMAGES_AT_ONCE):
            places, pixels = self._prepared(contents[first : first + IMAGES_AT_ONCE], first, refused)
            found = np.empty((len(places), self._whole), np.float32)
            try:
                self._run(pixels, found, first, told)
            except TooLargeError as error:
                raise EncoderError(
                    self._settings.model,
                    "memory does not suffice for one image",
                    "Take a smaller model, or free memory.",
                ) from error
            out[places] = found
        if self._settings.normalize:
            out = lengthened(out)
        return Encoded(shortened(out, self._settings.dimensions, self._settings.normalize), refused)

    def _run(
        self, pixels: NDArray[np.uint8], found: NDArray[np.float32], before: int, told: Told | None
    ) -> None:
        def counted(done: int) -> None:
            if told is not None:
                told(before + done)

        one_each = np.ones(len(pixels), np.int64)
        in_batches(one_each, lambda rows: self._features(pixels[rows]), found, self._size, 1, counted)

    def _prepared(
        self, contents: Sequence[Any], before: int, refused: dict[int, str]
    ) -> tuple[list[int], NDArray[np.uint8]]:
        """The places of the images that can be read, and their pixels uint8 [m, 3, side, side]."""
        places, read = [], []
        for place, content in enumerate(contents, start=before):
            try:
                image = small_image(content, self._scaled)
            except UnreadableImageError as error:
                refused[place] = str(error)
                continue
            read.append(self._cropped(image))
            places.append(place)
        return places, np.stack(read) if read else np.zeros((0, 3, self._side, self._side), np.uint8)

    def _cropped(self, image: Any) -> NDArray[np.uint8]:
        """The middle square, scaled; of an image as thin as a line, what there is of it."""
        shorter = min(image.size)
        side = shorter * self._side / self._scaled
        left, top = (image.width - side) / 2, (image.height - side) / 2
        seen = image.resize(
            (self._side, self._side), self._resampling, box=(left, top, left + side, top + side)
        )
        return np.asarray(seen, dtype=np.uint8).transpose(2, 0, 1)

    def _features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        ready = torch.from_numpy((pixels - self._mean) / self._std)
        with torch.inference_mode():
            found = self._net(ready.to(self._device, next(self._net.parameters()).dtype))
            return np.asarray(found.float().cpu().numpy())


def _net(settings: EncoderSettings) -> Any:
    """The model without its classifier, ready to judge."""
    import timm
    import torch

    name = settings.model.partition(":")[2]
    if name.partition(".")[0] not in timm.list_models() and not name.startswith("hf-hub:"):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0][:8]}*")[:5])
        raise EncoderError(
            settings.model,
            "timm knows no model of that name",
            "See timm.list_models()" + (f"; like it are {near}." if near else "."),
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return timm.create_model(name, pretrained=settings.pretrained, num_classes=0).eval()
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise EncoderError(
            settings.model,
            f"its pretrained weights cannot be fetched ({reason})",
            "If the model hub is out of reach: fill its cache on a connected machine (HF_HOME) and copy it, or set "
            "encoder.pretrained: false for random weights, which are worth little.",
        ) from error


def _data_config(net: Any) -> dict[str, Any]:
    from timm.data import resolve_model_data_config

    return dict(resolve_model_data_config(net))


def _resampling(name: str) -> Any:
    from PIL import Image

    known = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}
    return known.get(name, Image.Resampling.BICUBIC)
