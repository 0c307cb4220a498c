"""Contents that cannot be encoded: each is named with why, and every other is encoded as if it stood alone."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.embedding.embed import SHOWN_ROWS, cache_for, embed_missing
from tasks.embedding.encoders import EncoderSettings, load_encoder
from tasks.embedding.encoding import lengthened
from tasks.embedding.image_decoding import MOST_PIXELS, UnreadableImageError, small_image
from tasks.embedding.reading_texts import CHARACTERS_A_TOKEN, readable
from tasks.embedding.vectors import has_vector, vectors_of
from tasks.errors import InputError
from tasks.records import Embedded, image_key, text_key
from tasks.student.linear import LinearHead
from tasks.student.neighbours import cross_fitted_votes, nearest

PIXELS = EncoderSettings("pixels:8")
HASH = EncoderSettings("hash:32")


def file_of(image: Image.Image, form: str = "PNG", **how: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, form, **how)
    return held.getvalue()


def gradient(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Darker on the left; one picture in every mode."""
    grey = Image.linear_gradient("L").rotate(90).resize(size)
    return grey.convert("RGB").convert(mode) if mode != "L" else grey


def sixteen_bits() -> Image.Image:
    grey = np.asarray(gradient("L"), np.uint16) * 257
    return Image.fromarray(grey)


GOOD = {
    "rgb": file_of(gradient()),
    "grey": file_of(gradient("L")),
    "jpeg": file_of(gradient(), "JPEG", quality=95),
    "cmyk": file_of(gradient("CMYK"), "JPEG", quality=95),
    "palette": file_of(gradient("P")),
    "sixteen bits": file_of(sixteen_bits()),
    "transparent": file_of(gradient("RGBA")),
    "animated": file_of(gradient("P"), "GIF", save_all=True, append_images=[Image.new("P", (40, 30), 3)]),
    "wide": file_of(gradient("L", (20_000, 300))),
    "a line": file_of(gradient("L", (20_000, 1))),
    "large": file_of(gradient("RGB", (4_000, 3_000)), "JPEG", quality=95),
    "a point": file_of(Image.new("L", (1, 1), 99)),
}
BAD = {
    "cut": (file_of(gradient("RGB", (300, 300)), "JPEG")[:900], "damaged image"),
    "cut png": (GOOD["rgb"][:60], "damaged image"),
    "text": (b"a kettle", "not an image that can be read"),
    "nothing": (b"", "not an image but nothing"),
    "a bomb": (file_of(Image.new("1", (10_000, 9_000))), r"too many pixels \(10000 x 9000"),
    "a larger bomb": (file_of(Image.new("1", (20_000, 20_000))), "too many pixels"),
}


def frame_of(images: dict[str, bytes]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "key": [image_key(name.encode()) for name in images],
            "source_id": list(images),
            "text": [None] * len(images),
            "image": list(images.values()),
        },
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary},
    )


def embed(root: Path, frame: pl.DataFrame, modality: str = "image") -> Embedded:
    settings = PIXELS if modality == "image" else HASH

    def contents(missing: pl.DataFrame) -> pl.DataFrame:
        return frame.join(missing, on="key", how="semi", maintain_order="left")

    return embed_missing(settings, root, frame.select("key"), contents, modality)


def test_images_of_every_mode_and_size_are_the_same_picture() -> None:
    """CMYK, palette, 16 bits, animated, 20,000 pixels wide: the vector is that of the plain file, nearly."""
    encoder = load_encoder(PIXELS)
    alike = [name for name in GOOD if name not in ("a line", "a point")]
    found = encoder.encode([GOOD[name] for name in alike])
    cosines = dict(zip(alike, (found @ found[0]).round(3).tolist(), strict=True))
    assert min(cosines.values()) > 0.97, cosines
    assert np.isfinite(encoder.encode([GOOD["a line"], GOOD["a point"]])).all()


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_an_image_is_said(name: str) -> None:
    """A cut file, a text, nothing at all, too many pixels: each in few words, and no pixel of a bomb is decoded."""
    content, why = BAD[name]
    started = time.process_time()
    with pytest.raises(UnreadableImageError, match=why):
        small_image(content, 8)
    assert time.process_time() - started < 1


def test_a_large_photograph_is_decoded_small() -> None:
    """Twelve million pixels of JPEG come out no larger than their use needs, and upright."""
    image = small_image(GOOD["large"], 64)
    assert max(image.size) < 600
    assert min(image.size) >= 128
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    assert small_image(file_of(gradient(), "JPEG", exif=exif), 8).size == (30, 40)
    assert small_image(file_of(gradient(), "JPEG", exif=exif), 8, as_seen=False).size == (40, 30)
    assert MOST_PIXELS < Image.MAX_IMAGE_PIXELS  # type: ignore[operator]


@given(st.binary(max_size=300), st.integers(0, 2_000), st.integers(0, 255))
def test_no_bytes_make_anything_but_an_image_or_a_reason(noise: bytes, place: int, byte: int) -> None:
    """Noise, and good files with one byte changed or cut there."""
    files = [noise]
    for name in ("rgb", "jpeg", "animated", "palette"):
        good = GOOD[name]
        at = place % len(good)
        files += [good[:at], good[:at] + bytes([byte]) + good[at + 1 :]]
    for content in files:
        mode, why = "", ""
        try:
            mode = small_image(content, 8).mode
        except UnreadableImageError as error:
            why = str(error)
        assert mode == "RGB" or why


def test_bad_images_are_named_and_the_others_encoded(tmp_path: Path) -> None:
    """Each bad one by its id and why; the good ones have the vectors they would have alone; a rerun says it again."""
    mixed = {name: content for name, (content, _) in BAD.items()} | GOOD
    frame = frame_of(mixed).sample(fraction=1.0, shuffle=True, seed=3)
    done = embed(tmp_path, frame)
    assert (done.encoded, done.not_encoded, done.total) == (len(GOOD), len(BAD), len(mixed))
    assert {row.partition(":")[0] for row in done.not_encoded_rows} == set(BAD)
    good = frame_of(GOOD)
    alone = load_encoder(PIXELS).encode(list(GOOD.values()))
    assert np.array_equal(cache_for(PIXELS, tmp_path).read(good["key"]), alone)
    again = embed(tmp_path, frame)
    assert (again.encoded, again.cached, again.not_encoded) == (0, len(GOOD), len(BAD))


def test_so_many_bad_ones_are_counted_and_some_are_shown(tmp_path: Path) -> None:
    """A hundred: the count is exact, the list short; none without an id is nameless."""
    frame = frame_of({f"bad {n}": b"x%d" % n for n in range(100)}).with_columns(
        source_id=pl.lit(None, pl.String)
    )
    done = embed(tmp_path, frame)
    assert (done.encoded, done.not_encoded, len(done.not_encoded_rows)) == (0, 100, SHOWN_ROWS)
    assert done.not_encoded_rows[0].startswith(frame["key"][0].hex())


def test_later_jobs_get_zeros_for_what_has_no_vector(tmp_path: Path) -> None:
    """Row by row, repeats included; a zero vector is like no other, and is told apart; alone, too."""
    frame = frame_of({"bad": b"no", "rgb": GOOD["rgb"], "worse": b"", "grey": GOOD["grey"]})
    twice = pl.concat([frame, frame.reverse()])
    found = vectors_of(PIXELS, tmp_path, twice, "image")
    assert has_vector(found).tolist() == [False, True, False, True, True, False, True, False]
    good = load_encoder(PIXELS).encode([GOOD["rgb"], GOOD["grey"]])
    assert np.array_equal(found[[1, 3]], good)
    assert np.array_equal(found[[6, 4]], good)
    assert vectors_of(PIXELS, tmp_path, frame[:1], "image").tolist() == [[0.0] * 64]


def test_students_and_neighbours_survive_items_without_a_vector() -> None:
    """Zeros among the rows that are learned from and asked about: every probability is finite, and adds up."""
    rng = np.random.default_rng(0)
    X = lengthened(rng.standard_normal((60, 16), dtype=np.float32))
    X[[3, 40]] = 0.0
    y, folds = np.arange(60) % 3, np.arange(60) % 5
    P = LinearHead(1.0).fit(X, y, n_leaves=3, seed=0).predict_proba(X)
    votes = cross_fitted_votes(X, y, folds, 3)
    for said in (P, votes):
        np.testing.assert_allclose(said.sum(axis=1), 1, atol=1e-5)
    similarity, _ = nearest(X[[3]], X[:2])
    assert not similarity.any(), "like nothing: a gate on neighbours sends it to the teacher"


def test_texts_without_a_printable_character_are_named(tmp_path: Path) -> None:
    """Empty, blank, control characters, a lone surrogate, a text that is not there at all."""
    texts = ["a kettle", "", "  \t ", "\x00\x07", "\u200e", None, "a\x00 knife"]
    frame = pl.DataFrame(
        {"key": [text_key(f"{n}") for n in range(len(texts))], "source_id": [f"r{n}" for n in range(len(texts))],
         "text": texts, "image": [None] * len(texts)},
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary},
    )  # fmt: skip
    done = embed(tmp_path, frame, "text")
    assert (done.encoded, done.not_encoded) == (3, 4)  # a right-to-left mark is a character
    assert [row.partition(":")[0] for row in done.not_encoded_rows] == ["r1", "r2", "r3", "r5"]


@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_what_encoders_read_is_the_same_however_it_was_written(text: str) -> None:
    """Surrogates, control characters and spacing make no difference, and the prefix stays whole."""
    [plain] = readable([text], "query: ", 32)
    assert plain.startswith("query: ")
    plain.encode("utf-8")
    assert readable([f"\x00 {text}\ud800 \t"], "query: ", 32) == [plain]


def test_texts_without_end_are_cut_before_anybody_tokenises_them() -> None:
    """A hundred thousand characters, of one word and of many; time grows with the text, not with its square."""
    for text in ("kettle " * 15_000, "x" * 100_000, "é́" * 50_000, " " * 90_000 + "kettle"):
        started = time.process_time()
        [read] = readable([text], "", 512)
        assert time.process_time() - started < 1
        assert len(read) <= 512 * CHARACTERS_A_TOKEN


def test_a_content_that_is_bad_ends_what_wants_all(tmp_path: Path) -> None:
    """Whoever calls `encode` gets a vector for each or an error with the place; never a zero unasked."""
    with pytest.raises(InputError, match="content 2, row 2: not an image that can be read"):
        load_encoder(PIXELS).encode([GOOD["rgb"], b"a kettle"])
