"""Makes an image fit to be sent: upright, without transparency, no larger than the project says, JPEG or PNG.

Knows bytes in and a data URL out; nothing of prompts. An image that cannot be read is refused, not repaired.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import TYPE_CHECKING

from tasks.errors import RefusedTeacherError

if TYPE_CHECKING:
    from PIL import Image

SIDE = 1024  # pixels; larger images are scaled down
MOST_BYTES = 1_500_000
MOST_PIXELS = 89_000_000
"""More is refused before it is decoded, however few bytes it takes; Pillow warns of what is beyond 89.4 million."""

JPEG_QUALITY = 90
WHITE = (255, 255, 255)
_PLAIN = {"JPEG": ("L", "RGB"), "PNG": ("1", "L", "P", "RGB")}  # what every provider reads as it is
_SCALABLE = (
    "L",
    "LA",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
)  # as opposed to palettes, and to what must be stretched
_ORIENTATION = 0x0112  # the EXIF tag
# What decoders raise on bytes that are no image, or a broken one; warnings where they are made errors.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    EOFError,
    MemoryError,
    RuntimeError,
    Warning,
    struct.error,
    zlib.error,
)


def data_url(image: bytes, side: int = SIDE) -> str:
    """An image as a data URL: a small, plain JPEG or PNG as it is, all else written anew as JPEG.

    Args:
        image: the bytes of a file; of an animation the first frame counts.
        side: the most pixels of either side.

    Raises:
        RefusedTeacherError: the bytes are no image that can be read whole, or it has too many pixels.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise RefusedTeacherError("image_too_large", f"{opened.width} x {opened.height} pixels")
            if _is_plain(opened, image, side):
                opened.load()  # a broken one is refused here, not by the provider together with its neighbours
                kind, content = str(opened.format).lower(), image
            else:
                kind, content = "jpeg", _as_jpeg(opened, side)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedTeacherError("image_too_large", str(error)) from error
    except _BROKEN as error:
        raise RefusedTeacherError("unreadable_image", type(error).__name__) from error
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def most_image_tokens(side: int) -> int:
    """No fewer tokens than an image of this side costs: providers count areas, up to a bound of their own.

    Anthropic's documentation gives width x height / 750, OpenAI's 85 and 170 a tile of 512 pixels.
    """
    return max(1_500, side * side // 700)


def _is_plain(opened: Image.Image, image: bytes, side: int) -> bool:
    return (
        opened.mode in _PLAIN.get(str(opened.format), ())
        and max(opened.size) <= side
        and len(image) <= MOST_BYTES
        and "transparency" not in opened.info
        and getattr(opened, "n_frames", 1) == 1
        and opened.getexif().get(_ORIENTATION, 1) == 1
    )


def _as_jpeg(opened: Image.Image, side: int) -> bytes:
    from PIL import ImageOps

    opened.seek(0)
    if opened.mode in _SCALABLE:
        opened.thumbnail((side, side))  # first, so that what follows handles few pixels
    image = _in_rgb(ImageOps.exif_transpose(opened))
    image.thumbnail((side, side))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=JPEG_QUALITY)
    return written.getvalue()


def _in_rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel, what is transparent on white."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # 16 or 32 bits of grey: converting would cut off what is bright
        return _stretched(image)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layered = image.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (*WHITE, 255))
        ground.alpha_composite(layered)
        return ground.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _stretched(image: Image.Image) -> Image.Image:
    """Grey of more than eight bits brought into eight: by its range where it has one, else by its extremes."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    low, high = (
        (0.0, 65_535.0) if image.mode.startswith("I;16") else (float(values.min()), float(values.max()))
    )
    if image.mode == "I" and low >= 0 and high <= 65_535:
        low, high = 0.0, 65_535.0  # a 16-bit PNG may come as 32 bits
    grey = (values - low) * (255.0 / max(high - low, 1e-9))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
