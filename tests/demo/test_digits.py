"""The digits are images a browser could show, each in one frame only, with ten flat labels."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from tasks.demo import catalogue, digits

CONF = Path(__file__).parents[2] / "conf"


def test_every_image_is_a_png_in_exactly_one_frame() -> None:
    made = digits.generate(seed=2)
    truth = made.truth()
    assert (made.items.height, made.gold.height, made.traffic.height) == (1000, 400, 397)
    assert truth["image"].n_unique() == truth["id"].n_unique() == truth.height
    image = Image.open(io.BytesIO(made.items["image"][0]))
    assert (image.format, image.size, image.mode) == ("PNG", (32, 32), "L")
    assert set(truth["label"]) == set(digits.LABELS)
    assert made.items.columns == made.traffic.columns == ["id", "image"]


def test_the_truth_is_found_by_the_hash_of_the_bytes() -> None:
    made = digits.generate()
    image, label = made.gold["image"][5], made.gold["label"][5]
    assert made.truth_by_sha256()[hashlib.sha256(image).hexdigest()] == label


def test_the_seed_decides_the_split() -> None:
    assert digits.generate(1).gold.equals(digits.generate(1).gold)
    assert not digits.generate(1).gold.equals(digits.generate(2).gold)


def test_pixels_are_grey_values_of_each_image() -> None:
    made = digits.generate()
    values = digits.pixels(made.gold["image"][:3])
    assert values.shape == (3, 1024)
    assert values.min() == 0
    assert values.max() == 1


def test_files_and_the_committed_taxonomy_are_the_generated_ones(tmp_path: Path) -> None:
    made = digits.generate()
    files = digits.write(tmp_path, made)
    assert pl.read_parquet(files[1]).equals(made.gold)
    expected = catalogue.taxonomy_yaml(digits.taxonomy_mapping(), digits.HEADING)
    assert files[3].read_text() == (CONF / "digits.taxonomy.yaml").read_text() == expected


def test_a_split_without_items_is_refused() -> None:
    with pytest.raises(ValueError, match="leave no item"):
        digits.generate(gold=1000, traffic=797)
