"""How an encoder is trained further: batches of tokens, a linear layer on its vectors, rates that rise and fall.

sentence-transformers has losses for pairs and triplets of texts, none for one text with one label, and its trainer
needs two more packages; the loop here is short. Knows tokens and columns; what is kept of it is decided above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.reading_texts import readable
from tasks.embedding.sentence_encoder import most_tokens, padded, ready_tokenizer, token_ids
from tasks.embedding.settings import EncoderSettings
from tasks.errors import TrainingError

HEAD_LEARNING_RATE = 5e-3
"""The head starts from nothing, the encoder from what it knows: its rate is some hundred times the encoder's."""

SMOOTHING = 0.05
DECAY = 0.01
WARM_UP = 0.1
"""Share of the steps in which the rates rise; afterwards they fall to 0, linearly both."""

CLIP = 1.0


@dataclass(frozen=True)
class Finetuning:
    """How an encoder is trained further.

    Attributes:
        encoder: where it starts; its prefix, length and normalisation stay.
        home: the folder that trained encoders are kept in, by the hash of their weights.
        epochs: passes over the texts, at most.
        max_steps: batches in one training, at most.
        batch: texts a step.
        learning_rate: of the encoder, at its peak.
    """

    encoder: EncoderSettings
    home: Path
    epochs: int = 5
    max_steps: int = 5000
    batch: int = 32
    learning_rate: float = 3e-5


def tokens_of(model: Any, encoder: EncoderSettings, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text with its prefix, as many as the model reads.

    Raises:
        TrainingError: only the library itself can tokenise for this model.
    """
    tokenizer = ready_tokenizer(model)
    if tokenizer is None:
        raise TrainingError(
            f"{encoder.model} is no plain text transformer, so that it cannot be trained further here",
            "Name another encoder, or take finetuned out of student.candidates.",
        )
    most = most_tokens(model)
    return token_ids(tokenizer, readable(texts, encoder.prefix, most), most)


def scale_of(encoder: EncoderSettings, width: int) -> np.float32:
    """Unit-length vectors have entries too small for the usual learning rates."""
    return np.float32(np.sqrt(width) if encoder.normalize else 1.0)


def _vectors(model: Any, tokens: Sequence[Sequence[int]], encoder: EncoderSettings) -> Any:
    """Float32 [n, kept dimensions] as the encoder gives them, ready for a gradient."""
    import torch

    ids, mask = padded(tokens, ready_tokenizer(model).pad_token_id or 0)
    features = {
        "input_ids": torch.from_numpy(ids).to(model.device),
        "attention_mask": torch.from_numpy(mask).to(model.device),
    }
    vectors = model(features)["sentence_embedding"].float()[:, : encoder.dimensions]
    return torch.nn.functional.normalize(vectors, dim=1) if encoder.normalize else vectors


def epochs_of(
    model: Any,
    tokens: list[list[int]],
    y: NDArray[np.int64],
    weight: NDArray[np.floating],
    n_seen: int,
    training: Finetuning,
    epochs: int,
    seed: int,
) -> Iterator[Any]:
    """Yield the head's layer after each epoch of AdamW; the model is trained in place."""
    import torch

    with torch.no_grad():
        model.eval()
        width = _vectors(model, tokens[:1], training.encoder).shape[1]
    layer = torch.nn.Linear(width, n_seen).to(model.device)
    groups = [
        {"params": list(model.parameters()), "lr": training.learning_rate},
        {"params": list(layer.parameters()), "lr": HEAD_LEARNING_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    per_epoch = -(-len(y) // training.batch)
    steps = min(training.max_steps, per_epoch * training.epochs)
    warm = max(1, round(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
    )
    loss_of = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=SMOOTHING)
    w = torch.from_numpy((weight / weight.mean()).astype(np.float32)).to(model.device)
    target, scale = torch.from_numpy(y).to(model.device), float(scale_of(training.encoder, width))
    generator, done = torch.Generator().manual_seed(seed), 0
    for _ in range(epochs):
        model.train()
        for chosen in torch.randperm(len(y), generator=generator).split(training.batch):
            if done == steps:
                break
            rows = chosen.tolist()
            optimizer.zero_grad()
            scores = layer(scale * _vectors(model, [tokens[row] for row in rows], training.encoder))
            (w[rows] * loss_of(scores, target[rows])).mean().backward()
            torch.nn.utils.clip_grad_norm_([*model.parameters(), *layer.parameters()], CLIP)
            optimizer.step()
            schedule.step()
            done += 1
        model.eval()
        yield layer
        if done == steps:
            return


def judged_by(model: Any, tokens: list[list[int]], layer: Any, training: Finetuning) -> NDArray[np.float32]:
    """Probabilities float32 [n, seen] of tokenised texts, as model and layer now stand."""
    import torch

    scale = float(scale_of(training.encoder, layer.in_features))
    order = np.argsort([len(some) for some in tokens], kind="stable")
    P = np.empty((len(tokens), layer.out_features), np.float32)
    with torch.no_grad():
        for first in range(0, len(order), 64):
            rows = order[first : first + 64]
            vectors = _vectors(model, [tokens[row] for row in rows], training.encoder)
            P[rows] = torch.softmax(layer(scale * vectors), dim=1).cpu().numpy()
    return P
