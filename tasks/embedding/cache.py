"""The embedding cache: what was encoded once, by item key, in a folder named by the encoder's fingerprint.

Immutable parts that are there whole or not at all, so writers, readers and a compaction need no lock between
them. Knows nothing of encoders.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.embedding.folders import Folder, folder_at
from tasks.embedding.key_index import Damage, KeyIndex, Located, asked_ids, keys_of
from tasks.embedding.parts import SUFFIX, Part, Rows, StorageDtype, block_rows, write_part
from tasks.embedding.reading import dimension_of, fill
from tasks.errors import CacheError
from tasks.records import KEY_BYTES

REMEMBERED = 4  # folders whose keys a process keeps, 16 bytes each
TRIES = 10
BATCH_ROWS = 16_384

_indexes: OrderedDict[tuple[str, str], KeyIndex] = OrderedDict()
_indexes_lock = threading.Lock()


class EmbeddingCache:
    """The vectors of one encoder, at a path or an fsspec URL; of a Folder that is given, nothing is known yet.

    Attributes:
        folder: where they lie; its name is the encoder's fingerprint, and every part says so too.
        dtype: what they are stored in; what is read is always float32.
    """

    def __init__(
        self,
        location: Path | str | Folder,
        dtype: StorageDtype = "float32",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.dtype: StorageDtype = dtype
        self._clock = clock
        if isinstance(location, Path | str):
            self.folder: Folder = folder_at(location)
            self._index = _index_of(self.folder, dtype)
        else:
            self.folder = location
            self._index = KeyIndex(location, dtype)

    @property
    def damaged(self) -> list[Damage]:
        """The parts that this process has set aside so far."""
        return list(self._index.damaged)

    def parts(self) -> tuple[Part, ...]:
        """The parts that are there now, in the order they were written."""
        return self._index.parts()

    def set_aside(self, part: str, problem: str) -> None:
        """Afterwards a part counts for nothing, and its keys are missing; it keeps its bytes under another name."""
        self._index.set_aside(part, problem)

    def keys(self) -> pl.DataFrame:
        """Cached keys, one column `key`, each once."""
        ids = self._index.ids().unique(maintain_order=True)
        return pl.DataFrame({"key": keys_of(ids.to_list())}, schema={"key": pl.Binary})

    def missing(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Those rows of `keys` (a column `key`, and any others) that are not cached, one a key, in their order."""
        absent = keys.filter(self._index.missing(asked_ids(keys["key"])))
        return absent.unique("key", keep="first", maintain_order=True)

    def append(self, keys: Sequence[bytes], vectors: NDArray[np.floating]) -> None:
        """Add one part with vectors [n, d]; whole or not at all.

        Raises:
            ValueError: shapes do not fit, or a vector is not finite in the dtype it is stored in.
            CacheError: the folder cannot be written to, or holds vectors of another dimension.
        """
        if vectors.ndim != 2 or len(keys) != len(vectors):
            raise ValueError(f"{len(keys)} keys for vectors of shape {vectors.shape}")
        if any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a key is not of {KEY_BYTES} bytes")
        if not len(keys):
            return
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(vectors, dtype=self.dtype)
        if not np.isfinite(stored).all():
            raise ValueError(f"a vector holds NaN or infinity in {self.dtype}")
        dimension = stored.shape[1]
        self._check_dimension(dimension)
        raw = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        step = block_rows(dimension, self.dtype)
        blocks = (Rows(raw[at : at + step], stored[at : at + step]) for at in range(0, len(raw), step))
        # Names in the order of writing: what is asked for as it was written is then read straight through.
        name = f"part-{self._clock():016x}-{uuid.uuid4().hex[:12]}{SUFFIX}"
        with self.folder.put(name) as stream:
            write_part(stream, blocks, self.folder.name, dimension, self.dtype)

    def read(self, keys: Sequence[bytes] | pl.Series) -> NDArray[np.float32]:
        """Vectors float32 [n, d] of `keys`, in the order asked, repeats included; the one matrix and no copy.

        Raises:
            KeyError: a key is not cached.
            CacheError: the keys' vectors have different dimensions, or a part cannot be read for now.
        """
        asked = asked_ids(_series(keys))
        located = self._locate(asked)
        out = np.empty((asked.len(), dimension_of(self.folder, *located)), np.float32)
        self._fill(asked, located, out)
        return out

    def stream(
        self, keys: Sequence[bytes] | pl.Series, rows: int = BATCH_ROWS
    ) -> Iterator[NDArray[np.float32]]:
        """The same vectors `rows` at a time, each batch a matrix of its own; nothing else is held.

        Raises:
            KeyError: a key is not cached; before the first batch is given.
            CacheError: as in `read`.
        """
        asked = asked_ids(_series(keys))
        parts, places = self._locate(asked)
        dimension = dimension_of(self.folder, parts, places)
        for first in range(0, asked.len(), rows):
            here = asked.slice(first, rows)
            out = np.empty((here.len(), dimension), np.float32)
            if self._fill(here, Located(parts, places[first : first + rows]), out):
                parts, places = self._locate(asked)  # compacted meanwhile: look the rest up anew
            yield out
            del out

    def _fill(self, asked: pl.Series, located: Located, out: NDArray[np.float32]) -> bool:
        """Fill the matrix, however often parts are compacted or turn out damaged; True if some were."""
        places: NDArray[np.int64] | None = None
        for attempt in range(TRIES):
            unread = fill(self.folder, located.parts, located.rows, out, places)
            for name, problem in unread.damaged.items():
                self._index.set_aside(name, problem)
            if not unread.places:
                return attempt > 0
            places = np.concatenate(unread.places)
            located = self._locate(asked.gather(places))
            if dimension_of(self.folder, *located) != out.shape[1]:
                break
        raise CacheError(
            str(self.folder), "changes faster than it can be read", "Run it again when nobody rewrites it."
        )

    def _locate(self, asked: pl.Series) -> Located:
        """Where each id lies.

        A listing made while a compaction renames may lack a part, so that what is not found is looked for again.
        """
        for _ in range(TRIES):
            located = self._index.locate(asked)
            lacking = int((located.rows < 0).sum())
            if not lacking:
                return located
            if self._index.parts() == located.parts:
                break
        raise KeyError(
            f"{lacking} of {asked.len()} keys are not in the cache {self.folder.name}; run `flywheel embed`"
        )

    def _check_dimension(self, dimension: int) -> None:
        for part in self._index.parts()[:1]:
            if part.dimension != dimension:
                raise CacheError(
                    str(self.folder),
                    f"holds vectors of {part.dimension} dimensions, the encoder now gives {dimension}",
                    "The model behind the name changed: pin encoder.revision, or let `flywheel embed --verify` set "
                    "aside what it no longer gives.",
                )


def _index_of(folder: Folder, dtype: StorageDtype) -> KeyIndex:
    """The keys of a folder as this process knows them."""
    with _indexes_lock:
        name = (str(folder), dtype)
        index = _indexes.pop(name, None) or KeyIndex(folder, dtype)
        _indexes[name] = index
        while len(_indexes) > REMEMBERED:
            _indexes.popitem(last=False)
        return index


def _series(keys: Sequence[bytes] | pl.Series) -> pl.Series:
    return keys if isinstance(keys, pl.Series) else pl.Series("key", keys, pl.Binary)
