"""Frozen timm models: pooled features of what the model itself would see, or words that say why not."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image

from tasks.embedding.encoders import EncoderSettings, check_reads, fingerprint, load_encoder
from tasks.embedding.encoding import Encoder
from tasks.errors import EncoderError

SETTINGS = EncoderSettings("timm:test_resnet", pretrained=False, device="cpu")


@cache
def encoder() -> Encoder:
    return load_encoder(SETTINGS)


def files(count: int = 5) -> list[bytes]:
    rng = np.random.default_rng(0)
    found = []
    for row in range(count):
        pixels = rng.integers(0, 256, (40 + 30 * row, 200, 3), dtype=np.uint8)
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "PNG")
        found.append(held.getvalue())
    return found


def test_the_vectors_are_timms_own() -> None:
    """As by timm's own transform and `num_classes=0`, normalised; told after each batch; in the order given."""
    import timm
    import torch
    from timm.data import create_transform, resolve_model_data_config

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("test_resnet", num_classes=0).eval()
    transform = create_transform(**resolve_model_data_config(net), is_training=False)
    images = [Image.open(io.BytesIO(content)).convert("RGB") for content in files()]
    with torch.inference_mode():
        expected = net(torch.stack([transform(image) for image in images])).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    told: list[int] = []
    found = encoder().encode_each(files(), told.append)
    assert found.vectors.shape == (5, encoder().dimension)
    assert (found.vectors * expected).sum(axis=1).min() > 0.999
    assert told[-1] == 5
    assert encoder().encode([]).shape == (0, encoder().dimension)


def test_random_weights_are_the_same_each_time() -> None:
    """A fixed seed: what is loaded anew gives the same vectors; and the process's own random numbers go on."""
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = load_encoder(replace(SETTINGS, normalize=False))
    assert torch.equal(torch.rand(3), expected)
    lengths = np.linalg.norm(found := again.encode(files()), axis=1, keepdims=True)
    np.testing.assert_allclose(found / lengths, encoder().encode(files()), atol=1e-5)


def test_bad_images_are_named_and_the_others_encoded() -> None:
    """One in the middle, one at the end: their places and why, zeros there, and the others as alone."""
    good = files(3)
    found = encoder().encode_each([good[0], b"a kettle", good[1], good[2], b""])
    assert {place: why.split(" ")[0] for place, why in found.refused.items()} == {1: "not", 4: "not"}
    assert not found.vectors[[1, 4]].any()
    np.testing.assert_allclose(found.vectors[[0, 2, 3]], encoder().encode(good), atol=1e-5)


def test_bfloat16_and_fewer_dimensions() -> None:
    """Nearly the same directions; the first 16 numbers at length 1; each a cache of its own."""
    half = replace(SETTINGS, precision="bfloat16")
    few = replace(SETTINGS, dimensions=16)
    exact = encoder().encode(files())
    assert (load_encoder(half).encode(files()) * exact).sum(axis=1).min() > 0.99
    cut = exact[:, :16] / np.linalg.norm(exact[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(load_encoder(few).encode(files()), cut, atol=1e-5)
    names = {fingerprint(settings) for settings in (SETTINGS, half, few, replace(SETTINGS, pretrained=True))}
    assert len(names) == 4


def test_a_model_that_timm_does_not_know_is_refused() -> None:
    """Names like it are shown."""
    with pytest.raises(EncoderError, match=r"timm knows no model of that name.*resnet"):
        load_encoder(EncoderSettings("timm:resnet51234"))


def test_weights_out_of_reach_are_an_error_with_the_ways_out(refused_connections: list[str]) -> None:
    """Without a hub and its cache: fill the cache, or take random weights."""
    with pytest.raises(EncoderError, match=r"cannot be fetched .*HF_HOME.*pretrained: false"):
        load_encoder(replace(SETTINGS, pretrained=True))
    refused_connections.clear()


def test_images_are_for_image_encoders() -> None:
    """timm reads images and no texts; a text encoder names it as the way out."""
    check_reads(SETTINGS, "image")
    with pytest.raises(EncoderError, match="reads images, the project's items are texts"):
        check_reads(SETTINGS, "text")
    with pytest.raises(EncoderError, match="Use timm:NAME"):
        check_reads(EncoderSettings("openai:text-embedding-3-small"), "image")
