"""Encoding what is missing: each key once, in shards that survive a kill, of items whose content is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.embed import SHARD_ROWS, TEXTS_AT_ONCE, cache_for, embed_missing
from tasks.embedding.encoders import EncoderSettings, encode_in_shards, load_encoder
from tasks.embedding.vectors import vectors_of
from tasks.errors import EncoderError
from tasks.records import Embedded, image_key, text_key

HASH = EncoderSettings("hash:64")


def items(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {"key": [text_key(text) for text in texts], "text": texts, "image": [None] * len(texts)},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )


def embed(root: Path, frame: pl.DataFrame, asked: list[list[bytes]] | None = None) -> Embedded:
    """Embed a frame's keys; what is asked for is noted in `asked`."""

    def contents(missing: pl.DataFrame) -> pl.DataFrame:
        if asked is not None:
            asked.append(missing["key"].to_list())
        return frame.join(missing, on="key", how="semi")

    return embed_missing(HASH, root, frame.select("key"), contents, "text")


def test_only_what_is_missing_is_encoded(tmp_path: Path) -> None:
    """A second run with two new items encodes two; a third encodes none and asks for no content."""
    asked: list[list[bytes]] = []
    first = embed(tmp_path, items(["a kettle", "a knife", "a kettle"]), asked)
    assert (first.encoded, first.cached, first.total) == (2, 0, 2)
    second = embed(tmp_path, items(["a hose", "a kettle", "a shoe", "a knife"]), asked)
    assert (second.encoded, second.cached, second.total) == (2, 2, 4)
    third = embed(tmp_path, items(["a hose", "a kettle", "a shoe", "a knife"]), asked)
    assert (third.encoded, third.cached, third.total) == (0, 4, 4)
    assert asked == [[text_key("a kettle"), text_key("a knife")], [text_key("a hose"), text_key("a shoe")]]
    assert first.fingerprint == third.fingerprint


def test_contents_are_held_some_thousands_at_a_time(tmp_path: Path) -> None:
    """More items than one slice: contents are asked for slice by slice, and progress counts over all of them."""
    frame = items([f"item {n}" for n in range(TEXTS_AT_ONCE + 3)])
    asked: list[list[bytes]] = []
    told: list[tuple[int, int]] = []

    def contents(missing: pl.DataFrame) -> pl.DataFrame:
        asked.append(missing["key"].to_list())
        return frame.join(missing, on="key", how="semi", maintain_order="left")

    settings = EncoderSettings("hash:2")
    done = embed_missing(
        settings, tmp_path, frame.select("key"), contents, "text", lambda *now: told.append(now)
    )
    assert [len(keys) for keys in asked] == [TEXTS_AT_ONCE, 3]
    assert [key for keys in asked for key in keys] == frame["key"].to_list()
    assert (done.encoded, done.cached, done.total) == (frame.height, 0, frame.height)
    assert told == [(n, frame.height) for n in (0, 4096, 8192, 12288, 16384, 16387)]
    assert cache_for(settings, tmp_path).missing(frame.select("key")).height == 0


def test_items_whose_content_is_gone_are_not_counted_as_encoded(tmp_path: Path) -> None:
    """An item erased between listing and reading stays missing; the others are encoded."""
    frame = items(["a kettle", "a knife"])
    done = embed_missing(HASH, tmp_path, frame.select("key"), lambda _: frame[:1], "text")
    assert (done.encoded, done.cached, done.total) == (1, 0, 2)


def test_a_part_that_only_the_reading_of_vectors_finds_out_is_encoded_anew(tmp_path: Path) -> None:
    """Its keys were there, so nothing was missing; the read sets it aside, and the right vectors come back."""
    frame, folder = items(["a kettle"]), Path(str(cache_for(HASH, tmp_path).folder))
    about = {"format": "2", "fingerprint": folder.name, "dimension": "64", "dtype": "float32", "crc32": "[0]"}
    posing = pa.table(
        {"key": pa.array(frame["key"].to_list(), pa.binary(16)), "vector": pa.array([None], pa.binary(256))}
    )
    folder.mkdir(parents=True)
    pq.write_table(posing.replace_schema_metadata(about | {"replaces": "[]"}), folder / "part-0.parquet")
    assert cache_for(HASH, tmp_path).missing(frame.select("key")).height == 0
    found = vectors_of(HASH, tmp_path, frame, "text")
    assert np.array_equal(found, load_encoder(HASH).encode(["a kettle"]))
    assert (folder / "part-0.damaged").exists()


def test_nothing_missing_loads_no_encoder(tmp_path: Path) -> None:
    """With every vector cached an encoder that cannot be loaded is never touched."""
    broken = EncoderSettings("nobody/has-this-model")
    frame = items(["a kettle"])
    cache_for(broken, tmp_path).append(frame["key"].to_list(), np.ones((1, 4), np.float32))
    assert vectors_of(broken, tmp_path, frame, "text").tolist() == [[1.0] * 4]


def test_vectors_come_row_by_row_and_items_may_repeat(tmp_path: Path) -> None:
    """Each row has the vector of its own text, whatever the order and the repeats."""
    texts = ["b", "a", "b", "c", "a"]
    found = vectors_of(HASH, tmp_path, items(texts), "text")
    assert np.array_equal(found, load_encoder(HASH).encode(texts))
    assert vectors_of(HASH, tmp_path, items([]), "text").shape == (0, 0)


def test_shards_are_written_as_they_are_done(tmp_path: Path) -> None:
    """A run killed in its third shard leaves the first two, and the next run encodes the rest only."""

    class Killed(BaseException):
        pass

    texts = [f"item {n}" for n in range(25)]
    keys, cache = [text_key(text) for text in texts], EmbeddingCache(tmp_path)
    told: list[tuple[int, int]] = []

    def write(first: int, vectors: np.ndarray) -> None:
        if first == 20:
            raise Killed
        cache.append(keys[first : first + len(vectors)], vectors)

    with pytest.raises(Killed):
        encode_in_shards(load_encoder(HASH), texts, 10, write, lambda done, total: told.append((done, total)))
    assert set(cache.keys()["key"]) == set(keys[:20])
    assert told == [(10, 25), (20, 25)]
    assert SHARD_ROWS >= 1000, "a shard is thousands of items"


def test_an_image_file_that_is_gone_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    """An image taken in by its path and deleted since is named with its path; its neighbours are encoded."""
    there, gone = tmp_path / "sock.png", tmp_path / "no" / "shoe.png"
    Image.new("L", (9, 9), 7).save(there)
    frame = pl.DataFrame(
        {"key": [image_key(b"x"), image_key(b"y")], "text": [str(gone), str(there)], "image": [None, None]},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )
    done = embed_missing(
        EncoderSettings("pixels:8"), tmp_path / "var", frame.select("key"), lambda _: frame, "image"
    )
    assert (done.encoded, done.not_encoded, done.total) == (1, 1, 2)
    [said] = done.not_encoded_rows
    assert said.startswith(f"{image_key(b'x').hex()}: {gone}: cannot be read (No such file")


def test_an_encoder_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    """Texts are not given to a pixel encoder."""
    with pytest.raises(EncoderError, match="pixels:8: reads images"):
        vectors_of(EncoderSettings("pixels:8"), tmp_path, items(["a kettle"]), "text")
