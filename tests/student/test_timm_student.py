from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import InputError, TrainingError
from tasks.student.image_pixels import decode_images
from tasks.student.timm_student import TimmStudent


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def stripes(n: int) -> tuple[list[bytes], np.ndarray]:
    """Horizontal (1) and vertical (3) stripes on 16 x 16 pixels."""
    rng, y = np.random.default_rng(0), np.arange(n) % 2
    wave = np.arange(16)[:, None] // 2 % 2 * 200 + np.zeros((1, 16))
    return [png((wave if v else wave.T) + rng.integers(0, 50, (16, 16))) for v in y], np.where(y, 1, 3)


def test_it_learns_from_scratch_and_survives_saving(tmp_path: Path) -> None:
    images, y = stripes(48)
    student = TimmStudent(pretrained=False, image_size=32, epochs=25, batch=16).fit(
        images, y, n_leaves=5, seed=0
    )
    P = student.predict_proba(images)
    assert (P.argmax(axis=1) == y).mean() > 0.9
    assert np.all(P[:, [0, 2, 4]] == 0)
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-5)
    student.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.json", "head.safetensors"]
    assert np.array_equal(TimmStudent.load(tmp_path).predict_proba(images), P)
    assert student.predict_proba([]).shape == (0, 5)


def test_an_unreadable_image_is_named() -> None:
    images, y = stripes(4)
    images[2] = images[2][:40]
    with pytest.raises(InputError, match=r"shoe\.png") as caught:
        TimmStudent(pretrained=False).fit(images, y, n_leaves=5, seed=0, names=["a", "b", "shoe.png", "d"])
    assert caught.value.row == 3
    with pytest.raises(InputError, match="image 1"):
        decode_images([b"not an image"], 32)


def test_what_cannot_be_trained_is_refused() -> None:
    images, y = stripes(4)
    with pytest.raises(TrainingError, match="no model called"):
        TimmStudent("mobilenot", pretrained=False).fit(images, y, n_leaves=5, seed=0)
    with pytest.raises(TrainingError, match="label some images"):
        TimmStudent(pretrained=False).fit([], y[:0], n_leaves=5, seed=0)
    with pytest.raises(TrainingError, match="not been trained"):
        TimmStudent(pretrained=False).predict_proba(images)
