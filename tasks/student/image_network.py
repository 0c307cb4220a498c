"""A timm network to train: with which weights, for which size, on which device, in which precision.

Knows timm and torch; neither images nor labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.errors import TrainingError


def create_network(
    model: str, side: int, columns: int, *, pretrained: bool, weights: str | None = None
) -> Any:
    """The network, on the processor; its `pretrained_cfg` has the mean and std of channels that it is made for.

    Args:
        model: a timm architecture, with or without the tag of its weights.
        side: of the images in pixels.
        columns: of its classifier, which starts from random weights.
        pretrained: with timm's weights, from its hub or the hub's cache, else with random ones.
        weights: a safetensors file of pretrained weights, instead of the hub's.

    Raises:
        TrainingError: timm knows no such model, cannot make it for that size, or its weights are out of reach.
    """
    import timm
    import torch
    from safetensors import SafetensorError

    if model.partition(".")[0] not in timm.list_models():
        raise TrainingError(f"timm knows no model called {model!r}", "see timm.list_models()")
    about = timm.get_pretrained_cfg(model)
    fixed = about is not None and about.fixed_input_size
    sized = {"img_size": side} if fixed else {}
    source = {"pretrained_cfg_overlay": {"file": weights}} if weights and pretrained else {}
    try:
        net = timm.create_model(model, pretrained=pretrained, num_classes=columns, **sized, **source)
        if fixed:  # not every size is one for its patches and windows
            with torch.no_grad():
                net.eval()(torch.zeros(1, 3, side, side))
    except (OSError, RuntimeError, ValueError, AssertionError, SafetensorError) as error:
        raise TrainingError(
            f"{model} cannot be had with {'pretrained' if pretrained else 'random'} weights for images of {side} "
            f"pixels ({error})",
            "connect to the hub once, fill its cache, name a file in student.timm.weights, or set pretrained: false"
            if pretrained
            else "name another model or another student.image_size",
        ) from error
    return net


def device_of(named: str) -> str:
    """The device of that name; `auto` is CUDA where it is, else the processor.

    Raises:
        TrainingError: there is no such device here.
    """
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if named == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(named):
        raise TrainingError(
            f"there is no {named} here to train the image model on", "set student.timm.device to auto or cpu"
        )
    return named


def mixed_precision(device: str) -> Any:
    """Torch's type of mixed precision on CUDA: bfloat16 where the GPU is built for it, else float16; elsewhere None."""
    import torch

    if device != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Torch draws by that seed and computes the same twice; what it would have drawn outside is as it was."""
    import torch

    forked = [torch.cuda.current_device()] if device == "cuda" else []
    with (
        torch.random.fork_rng(devices=forked),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        torch.manual_seed(seed)
        yield
