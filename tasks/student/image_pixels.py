"""Images as arrays: decoded to one size, varied at random for training, normalised for a network.

Knows Pillow and torch tensors; nothing of models and labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import InputError

SHIFT = 0.06
"""Training images are moved by up to this share of their side, so that a position is not learned as a label."""

JITTER = 0.2
"""Brightness and contrast of training images change by up to this share."""


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


def augmented(pixels: Any, generator: Any, *, flip: bool) -> Any:
    """Float32 of 0 to 255 [n, 3, side, side]: every image moved, lit and, if `flip`, mirrored by a draw of its own.

    Moved images repeat their edges; half of them are mirrored, left to right. All draws come from `generator`, which is
    the processor's, so that they are the same wherever the pixels (uint8) are.
    """
    import torch

    count, channels, _, side = pixels.shape
    reach = round(side * SHIFT)
    offsets = torch.randint(-reach, reach + 1, (count, 2, 1), generator=generator)
    places = (torch.arange(side) + offsets).clamp(0, side - 1)  # of rows and of columns, [n, 2, side]
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        places[mirrored, 1] = places[mirrored, 1].flip(-1)
    factors = 1 + JITTER * (2 * torch.rand(2, count, 1, 1, 1, generator=generator) - 1)
    rows, columns = places.to(pixels.device).unbind(1)
    brightness, contrast = factors.to(pixels.device)
    image = torch.arange(count, device=pixels.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=pixels.device).view(1, -1, 1, 1)
    moved = pixels[image, channel, rows[:, None, :, None], columns[:, None, None, :]].float()
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    return ((moved - mean) * contrast + mean * brightness).clamp(0, 255)


def normalised(pixels: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Float32 [n, 3, side, side] of pixels from 0 to 255, by channel statistics in [0, 1]."""
    import torch

    centre, spread = (torch.tensor(part, device=pixels.device).view(3, 1, 1) for part in (mean, std))
    return (pixels.float() / 255 - centre) / spread
