"""An image is sent upright, opaque, small and readable by everybody, or refused."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.errors import RefusedTeacherError
from tasks.labeling.images import MOST_BYTES, MOST_PIXELS, SIDE, data_url, most_image_tokens

RED, BLUE, GREEN = (220, 20, 20), (20, 20, 220), (20, 200, 20)


def _written(image: Image.Image, form: str, **settings: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, form, **settings)
    return written.getvalue()


def _two_halves(width: int = 64, height: int = 32, mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image.convert(mode)


def _sent(image: bytes, side: int = SIDE) -> tuple[str, Image.Image]:
    head, _, payload = data_url(image, side).partition(",")
    opened = Image.open(io.BytesIO(base64.b64decode(payload, validate=True)))
    opened.load()
    return head, opened


def _near(image: Image.Image, place: tuple[float, float], colour: tuple[int, ...]) -> bool:
    x, y = int(place[0] * image.width), int(place[1] * image.height)
    found = image.convert("RGB").getpixel((x, y))
    assert isinstance(found, tuple)
    return all(abs(a - b) < 40 for a, b in zip(found, colour, strict=True))


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "1"), ("JPEG", "RGB"), ("JPEG", "L")],
)
def test_a_small_plain_image_is_sent_byte_for_byte(form: str, mode: str) -> None:
    image = _written(_two_halves(mode=mode), form)
    head, _, payload = data_url(image).partition(",")
    assert head == f"data:image/{form.lower()};base64"
    assert base64.b64decode(payload) == image


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_large_image_is_scaled_down_to_the_side_of_the_project(form: str) -> None:
    head, sent = _sent(_written(_two_halves(900, 300), form), side=256)
    assert head == "data:image/jpeg;base64"
    assert (sent.size, sent.mode, sent.format) == ((256, 85), "RGB", "JPEG")
    assert _near(sent, (0.2, 0.5), RED)
    assert _near(sent, (0.8, 0.5), BLUE)


def test_an_image_of_many_bytes_is_written_anew_though_it_is_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    image = _written(Image.fromarray(noise), "PNG")
    assert len(image) > MOST_BYTES
    head, sent = _sent(image)
    assert head == "data:image/jpeg;base64"
    assert sent.size == (900, 900)


@pytest.mark.parametrize(("orientation", "left"), [(1, RED), (3, BLUE), (2, BLUE)])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_turned_the_way_it_was_taken(form: str, orientation: int, left: tuple[int, ...]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    _, sent = _sent(_written(_two_halves(), form, exif=exif))
    assert _near(sent, (0.2, 0.5), left)


def test_a_photograph_taken_upright_has_its_sides_exchanged() -> None:
    """Orientation 6: what is stored on the left was above; also when it is scaled down at the same time."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for width, side in ((64, SIDE), (640, 100)):
        _, sent = _sent(_written(_two_halves(width, width // 2), "JPEG", exif=exif), side)
        assert sent.width < sent.height <= side
        assert _near(sent, (0.5, 0.2), RED)
        assert _near(sent, (0.5, 0.8), BLUE)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(form: str, mode: str) -> None:
    """Not black, which is what a provider that drops the channel makes of it."""
    image = _two_halves(mode="RGBA")
    image.paste((0, 0, 0, 0), (32, 0, 64, 32))
    head, sent = _sent(_written(image.convert(mode), form))
    assert head == "data:image/jpeg;base64"
    assert _near(sent, (0.8, 0.5), (255, 255, 255))
    assert not _near(sent, (0.2, 0.5), (255, 255, 255))


def test_a_palette_with_a_transparent_colour_is_laid_on_white_too() -> None:
    image = _two_halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    blue = image.getpixel((60, 10))
    for form in ("PNG", "GIF"):
        _, sent = _sent(_written(image, form, transparency=blue))
        assert _near(sent, (0.2, 0.5), RED)
        assert _near(sent, (0.8, 0.5), (255, 255, 255))


def test_colours_for_printing_become_colours_for_a_screen() -> None:
    head, sent = _sent(_written(_two_halves(mode="CMYK"), "JPEG"))
    assert (head, sent.mode) == ("data:image/jpeg;base64", "RGB")
    assert _near(sent, (0.2, 0.5), RED)


def test_sixteen_bits_of_grey_are_brought_into_eight_instead_of_cut_off() -> None:
    """Cut off at 255, everything but black would be white."""
    values = np.full((32, 64), 16_000, np.uint16)
    values[:, 32:] = 48_000
    for form in ("PNG", "TIFF"):
        _, sent = _sent(_written(Image.fromarray(values), form))
        assert _near(sent, (0.2, 0.5), (62, 62, 62))
        assert _near(sent, (0.8, 0.5), (187, 187, 187))
    floats = Image.fromarray(np.where(values > 20_000, 1.0, -1.0).astype(np.float32))
    _, sent = _sent(_written(floats, "TIFF"))
    assert _near(sent, (0.2, 0.5), (0, 0, 0))
    assert _near(sent, (0.8, 0.5), (255, 255, 255))


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_sent(form: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, BLUE, GREEN)]
    image = _written(frames[0], form, save_all=True, append_images=frames[1:], duration=100)
    _, sent = _sent(image)
    assert getattr(sent, "n_frames", 1) == 1
    assert _near(sent, (0.5, 0.5), RED)


def _png_that_says(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims any size."""
    image = bytearray(_written(Image.new("L", (8, 8)), "PNG"))
    image[16:24] = struct.pack(">II", width, height)
    image[29:33] = struct.pack(">I", zlib.crc32(bytes(image[12:29])))
    return bytes(image)


@pytest.mark.parametrize("side", [10_000, 20_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    assert side * side > MOST_PIXELS
    with pytest.raises(RefusedTeacherError, match="image_too_large"):
        data_url(_png_that_says(side, side))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_broken_image_is_refused_whatever_is_broken_in_it(form: str) -> None:
    """Cut anywhere or with bytes turned over; a small plain one is not passed on to the provider unread, either."""
    image = _written(_two_halves(96, 64), form)
    rng, refused = random.Random(form), 0
    broken = [image[: len(image) * share // 20] for share in range(20)]
    for _ in range(150):
        turned = bytearray(image)
        for _ in range(rng.randint(1, 8)):
            turned[rng.randrange(len(turned))] = rng.randrange(256)
        broken.append(bytes(turned))
    for content in broken:
        try:
            _sent(content)
        except RefusedTeacherError:
            refused += 1
    assert refused >= 15


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4"]
)
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedTeacherError, match="unreadable_image"):
        data_url(content)


def test_a_larger_side_reserves_more_tokens() -> None:
    assert most_image_tokens(256) == most_image_tokens(SIDE) == 1_500
    assert most_image_tokens(2048) == 2048 * 2048 // 700
