"""How an image network learns: which layers from when on, at which rates, from which variants of the images.

Knows torch networks, pixels and columns; neither files nor labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.errors import TrainingError
from tasks.student.image_pixels import augmented, normalised

Trained = Literal["frozen", "gradual", "full"]
"""Which weights learn: those of the classifier; all, from the top downwards; all, from the first step on."""

SMOOTHING = 0.05
DECAY = 0.02
FINE = 0.1
"""Pretrained layers learn at this share of the rate of new ones."""

LOWER = 0.75
"""Each layer at this share of the rate of the one above it, where layers are unfrozen gradually."""

FIRST_SCALE = 1024.0
"""Of losses in float16. Torch's own is 64 times that, and every halving of it costs a step of the few there are."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        trained: which weights learn; `frozen` is not for `train`.
        pretrained: whether all but the classifier know something already.
        epochs: passes over the images.
        batch: images a step.
        learning_rate: the peak of a one-cycle schedule, of layers that know nothing yet.
        flip: whether images may be mirrored left to right.
        mean: of the channels, in [0, 1].
        std: of the channels.
        device: a torch device.
        precision: torch's type of mixed precision; None computes in float32.
    """

    trained: Trained
    pretrained: bool
    epochs: int
    batch: int
    learning_rate: float
    flip: bool
    mean: Sequence[float]
    std: Sequence[float]
    device: str
    precision: Any = None


def train(net: Any, pixels: Any, target: Any, weight: Any, recipe: Recipe, seed: int) -> None:
    """Train in place; afterwards the network stands on the device, ready to judge.

    Unfreezing gradually (Howard & Ruder 2018), only the topmost layer learns in the first epoch, and all do in the
    second half of the epochs. What is frozen keeps its weights and its normalisation's statistics to the bit.

    Args:
        net: a timm network.
        pixels: uint8 [n, 3, side, side], on the processor.
        target: columns of the classifier, int64 [n].
        weight: float32 [n], 1 on average.
        recipe: see there.
        seed: of the order and of the augmentation.
    """
    import torch

    device, layers = recipe.device, _layers(net, recipe)
    generator = torch.Generator().manual_seed(seed)
    steps = recipe.epochs * -(-len(target) // recipe.batch)
    groups = [{"params": parameters, "lr": rate} for _, rate, parameters in layers]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    peaks = [rate for _, rate, _ in layers]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps)
    scaler = torch.amp.GradScaler(device, FIRST_SCALE, enabled=recipe.precision is torch.float16)
    loss_of = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=SMOOTHING)
    deepest = max(depth for depth, _, _ in layers)
    for epoch in range(recipe.epochs):
        _unfreeze(net, layers, 2 * epoch * (deepest + 1) // recipe.epochs)
        for chosen in torch.randperm(len(target), generator=generator).split(recipe.batch):
            if len(chosen) == 1:  # batch normalisation cannot see a single image
                chosen = chosen.repeat(2)
            optimizer.zero_grad()
            varied = augmented(pixels[chosen].to(device), generator, flip=recipe.flip)
            with torch.autocast(device, recipe.precision, enabled=recipe.precision is not None):
                scores = net(normalised(varied, recipe.mean, recipe.std))
            losses = loss_of(scores.float(), target[chosen].to(device))
            scaler.scale((weight[chosen].to(device) * losses).mean()).backward()
            scaler.step(optimizer)
            scale = scaler.get_scale()
            scaler.update()
            if scaler.get_scale() >= scale:  # else float16 overflowed, and no step was made
                schedule.step()
    _settle_statistics(net, pixels, recipe)
    net.requires_grad_(True).eval()


def _layers(net: Any, recipe: Recipe) -> list[tuple[int, float, list[Any]]]:
    """Depth below the top, peak rate and parameters; together all parameters of the network."""
    if not recipe.pretrained:
        return [(0, recipe.learning_rate, list(net.parameters()))]
    named, fine = dict(net.named_parameters()), FINE * recipe.learning_rate
    if recipe.trained == "full":
        classifier = net.pretrained_cfg["classifier"]
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        new = [name for name in named if name.startswith(tuple(f"{head}." for head in heads))]
        return [
            (0, recipe.learning_rate, [named[name] for name in new]),
            (0, fine, [named[name] for name in named if name not in new]),
        ]
    if not hasattr(net, "group_matcher"):
        raise TrainingError(
            f"timm does not say which layers of {type(net).__name__} lie above which",
            "set student.timm.train to full or frozen",
        )
    from timm.models import group_parameters

    place = group_parameters(net, net.group_matcher(coarse=True), reverse=True)
    top = max(place.values())
    return [
        (top - layer, fine * LOWER ** (top - layer), [named[name] for name in named if place[name] == layer])
        for layer in sorted(set(place.values()), reverse=True)
    ]


def _unfreeze(net: Any, layers: list[tuple[int, float, list[Any]]], down_to: int) -> None:
    """Layers as deep as that learn; the others neither learn nor gather statistics."""
    for depth, _, parameters in layers:
        for parameter in parameters:
            parameter.requires_grad_(depth <= down_to)
    net.train()
    for module in net.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.training = False  # of itself alone: what is below it may learn


def _settle_statistics(net: Any, pixels: Any, recipe: Recipe) -> None:
    """Average the statistics of normalisations that learned over the images once more, with the final weights.

    The running ones lag behind by dozens of steps, which is as long as a small training lasts.
    """
    import torch

    kinds = torch.nn.modules.batchnorm._BatchNorm
    layers = [m for m in net.modules() if isinstance(m, kinds) and m.training]
    usual = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    with torch.no_grad():
        for part in torch.randperm(len(pixels)).split(recipe.batch):
            if len(part) > 1:
                net(normalised(pixels[part].to(recipe.device), recipe.mean, recipe.std))
    for layer, momentum in zip(layers, usual, strict=True):
        layer.momentum = momentum
