"""What a frozen image network makes of images, and a linear classifier on it, written into the network.

Knows torch networks and columns; how images are read is told by the caller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.student.linear import LinearHead

IMAGES_AT_ONCE = 256
MOST_BYTES = 2**30


class FrozenFeatures:
    """The features of images by one frozen network, computed once for each image while they fit.

    Args:
        most_bytes: of features kept; those of further images are computed again whenever they are asked for.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._known: dict[bytes, NDArray[np.float32]] = {}

    def of(
        self, net: Any, images: Sequence[bytes], read: Callable[[slice], Any], device: str
    ) -> NDArray[np.float32]:
        """Float32 [n, width], what the classifier of the network is given.

        Args:
            net: a timm network on that device; always with the same weights below the classifier.
            images: encoded, n of them.
            read: gives some of them ready for the network, float32 [m, 3, side, side].
            device: a torch device.

        Raises:
            TrainingError: the network's classifier is not a linear layer on features.
        """
        import torch

        net.eval()
        parts = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            part = slice(start, start + IMAGES_AT_ONCE)
            keys = [hashlib.blake2b(image, digest_size=16).digest() for image in images[part]]
            if all(key in self._known for key in keys):
                parts.append(np.stack([self._known[key] for key in keys]))
                continue
            with (
                torch.no_grad()
            ):  # not inference_mode: what the network caches meanwhile must take gradients later
                found = _features(net, read(part).to(device)).cpu().numpy()
            parts.append(found)
            for key, vector in zip(keys, found, strict=True):
                if key not in self._known and self._bytes + vector.nbytes <= self._most_bytes:
                    self._known[key] = vector.copy()
                    self._bytes += vector.nbytes
        return np.concatenate(parts)


def fit_classifier(
    net: Any,
    features: NDArray[np.float32],
    y: NDArray[np.int64],
    weight: NDArray[np.floating] | None,
    seed: int,
) -> None:
    """Give the network the classifier that a linear head learns on its features; nothing else in it changes.

    The head sees features centred and of about unit length, which its weights then undo.

    Args:
        net: its classifier has `max(y) + 1` columns.
        features: float32 [n, width].
        y: columns [n].
        weight: non-negative [n].
        seed: of the folds that choose the regularisation.
    """
    import torch

    mean = features.mean(axis=0)
    centred = features - mean
    length = max(float(np.linalg.norm(centred, axis=1).mean()), float(np.finfo(np.float32).tiny))
    head = LinearHead().fit(centred / np.float32(length), y, weight, n_leaves=int(y.max()) + 1, seed=seed)
    weights = (head.weights / head.temperature).astype(np.float64)
    slopes = weights[:-1].T / length
    layer = net.get_classifier()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(slopes))
        layer.bias.copy_(torch.from_numpy(weights[-1] - slopes @ mean))


def _features(net: Any, inputs: Any) -> Any:
    import torch

    layer = net.get_classifier()
    found = net.forward_head(net.forward_features(inputs), pre_logits=True)
    if (
        not isinstance(layer, torch.nn.Linear)
        or layer.bias is None
        or found.shape[1:] != (layer.in_features,)
    ):
        raise TrainingError(
            f"the image model {type(net).__name__} has no linear classifier that could be trained alone",
            "set student.timm.train to full",
        )
    return found
