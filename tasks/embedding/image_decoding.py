"""Turns the bytes of an image file into few RGB pixels, whatever its mode; what cannot be read says why.

Large images are decoded small where their format allows it, and refused by their number of pixels before anything is
decoded where it does not. Knows nothing of models.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 89_000_000
"""Decoded they take 270 to 360 MB; Pillow warns of what is beyond 89.4 million."""

LARGE_PIXELS = 1_000_000
"""Smaller ones are decoded whole, so that their vectors depend on no format's way of decoding small."""

WHITE = (255, 255, 255)
# What Pillow's decoders were seen to raise on damaged files.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, MemoryError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip


class UnreadableImageError(Exception):
    """Says in few words why an image cannot be read."""


def small_image(content: object, side: int, as_seen: bool = True) -> Image.Image:
    """The first frame in RGB, a large one no smaller than twice `side`.

    Args:
        content: the bytes of a file.
        side: pixels that the shorter side will be scaled to; a large JPEG is decoded at a fraction of its size.
        as_seen: turned upright as its EXIF says and what is transparent on white; else as the pixels are stored.

    Raises:
        UnreadableImageError: these are no bytes, no image, a damaged one, or far too many pixels.
    """
    from PIL import Image

    if not isinstance(content, bytes | bytearray | memoryview):
        raise UnreadableImageError(f"not an image but {type(content).__name__}")
    if not len(content):
        raise UnreadableImageError("not an image but nothing at all")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # counted below
            warnings.simplefilter("ignore", UserWarning)  # damaged metadata is none of our concern
            with Image.open(io.BytesIO(content)) as opened:
                return _decoded(opened, side, as_seen)
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too many pixels ({error})") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError("not an image that can be read") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:100]
        raise UnreadableImageError(f"damaged image ({reason})" if reason else "damaged image") from error


def _decoded(opened: Image.Image, side: int, as_seen: bool) -> Image.Image:
    from PIL import ImageOps

    opened.seek(0)
    large = opened.width * opened.height > LARGE_PIXELS
    if large:
        opened.draft(None, (2 * side, 2 * side))  # of a JPEG, by a power of two; others ignore it
    if opened.width * opened.height > MOST_PIXELS:
        raise UnreadableImageError(
            f"too many pixels ({opened.width} x {opened.height}, at most {MOST_PIXELS:,})"
        )
    opened.load()
    image: Image.Image = opened
    # By whole steps first: what is large is brought down before its colours are converted.
    step = min(image.width, image.height) // (2 * side)
    if large and step > 1 and image.mode in ("L", "RGB", "CMYK", "YCbCr"):
        image = image.reduce(step)
    image = _in_rgb(image, as_seen)
    return ImageOps.exif_transpose(image) if as_seen else image


def _in_rgb(image: Image.Image, on_white: bool) -> Image.Image:
    """Eight bits a channel; what is transparent stands on white if it is to, else shows what lies below."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # 16 or 32 bits of grey: converting would cut off what is bright
        return _in_eight_bits(image)
    if on_white and ("A" in image.mode or "a" in image.mode or "transparency" in image.info):
        layered = image.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (*WHITE, 255))
        ground.alpha_composite(layered)
        return ground.convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its range, of more by its extremes."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    low, high = float(values.min()), float(values.max())
    if image.mode != "F" and low >= 0 and high <= 65_535:
        low, high = 0.0, 65_535.0
    grey = (values - low) * (255.0 / max(high - low, 1e-9))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
