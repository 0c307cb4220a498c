"""Whatever writers, compactions, kills and accidents do in whichever order: what is asked for comes back.

In the order asked, each exactly once, equal to a fresh encoding within what the dtype on disk allows.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.compaction import compact
from tasks.embedding.embed import cache_for
from tasks.embedding.encoders import EncoderSettings, load_encoder
from tasks.embedding.folders import LocalFolder
from tasks.embedding.part_reading import open_part, read_keys
from tasks.embedding.vectors import vectors_of
from tasks.embedding.verifying import verify
from tasks.errors import DamagedPartError
from tasks.records import text_key
from tests.conftest import SESSION_FOLDER
from tests.embedding.killed_folder import Killed, KilledFolder

TEXTS = [f"item {number} of many" for number in range(30)]
KEYS = [text_key(text) for text in TEXTS]
PLACES = {key: place for place, key in enumerate(KEYS)}
FRESH = load_encoder(EncoderSettings("hash:8")).encode(TEXTS)
NUMBERS = st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=4)
ASKED = st.lists(st.integers(0, len(TEXTS) - 1), max_size=40)
PLACE = st.integers(0, 99)  # of a part among those there are: nothing drawn depends on the folder
FEW_BYTES = 600  # a merged part of this size holds a handful of the parts written here


class Interleavings(RuleBasedStateMachine):
    """One folder, many processes: every rule but `ask` is a process of its own, which knows nothing yet."""

    @initialize(dtype=st.sampled_from(["float32", "float16"]))
    def start(self, dtype: Any) -> None:
        self.root = Path(tempfile.mkdtemp(dir=SESSION_FOLDER))
        self.settings = EncoderSettings("hash:8", storage_dtype=dtype)
        self.tolerance = 0.0 if dtype == "float32" else 5e-4
        self.path = Path(str(cache_for(self.settings, self.root).folder))
        self.strangers = 0
        self.written: set[int] = set()
        self.sure: set[int] = set()  # written, and in no part that was harmed since

    def process(self, dies_at: int | None = None, share: float = 0.5) -> EmbeddingCache:
        """The cache as a process sees it that has just started, and may be killed."""
        folder: Any = LocalFolder(self.path) if dies_at is None else KilledFolder(self.path, dies_at, share)
        return EmbeddingCache(folder, self.settings.storage_dtype)

    def parts(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet"))

    def harmed(self, part: Path) -> None:
        """What lies in this part is no longer sure to be there."""
        folder = LocalFolder(self.path)
        try:
            held = read_keys(folder, open_part(folder, part.name, self.settings.storage_dtype))
        except DamagedPartError:
            return  # harmed before
        self.sure -= {PLACES[key.tobytes()] for key in held}

    @rule(shards=st.lists(NUMBERS, min_size=1, max_size=8))
    def write(self, shards: list[list[int]]) -> None:
        """Another writer, who need not ask what is there already."""
        cache = self.process()
        for numbers in shards:
            cache.append([KEYS[n] for n in numbers], FRESH[numbers])
            self.written |= set(numbers)
            self.sure |= set(numbers)

    @rule(numbers=NUMBERS, dies_at=st.integers(0, 1), share=st.floats(0, 1))
    def write_and_die(self, numbers: list[int], dies_at: int, share: float) -> None:
        """A writer killed at some byte, or just before the rename."""
        try:
            self.process(dies_at, share).append([KEYS[n] for n in numbers], FRESH[numbers])
        except Killed:
            return
        raise AssertionError("it should have died")

    @rule(at_least=st.integers(2, 6))
    def compact(self, at_least: int) -> None:
        compact(self.process(), at_least, FEW_BYTES, now=0.0)

    @rule(dies_at=st.integers(0, 12), share=st.floats(0, 1))
    def compact_and_die(self, dies_at: int, share: float) -> None:
        """A compaction killed while it writes, before a rename, between deletions or not at all."""
        with suppress(Killed):
            compact(self.process(dies_at, share), 2, FEW_BYTES, now=4e9)

    @rule(place=PLACE, share=st.floats(0, 1, exclude_max=True))
    def cut(self, place: int, share: float) -> None:
        """A disk that lost the end of a part."""
        if not (parts := self.parts()):
            return
        part = parts[place % len(parts)]
        self.harmed(part)
        part.write_bytes(part.read_bytes()[: int(share * part.stat().st_size)])

    @rule(place=PLACE, share=st.one_of(st.floats(0, 0.3), st.floats(0, 1, exclude_max=True)))
    def rot_and_verify(self, place: int, share: float) -> None:
        """One flipped bit anywhere: `--verify` finds it, or it lies where nothing is read from."""
        if not (parts := self.parts()):
            return
        part = parts[place % len(parts)]
        self.harmed(part)
        content = bytearray(part.read_bytes())
        if content:
            content[int(share * len(content))] ^= 0x10
            part.write_bytes(content)
        verify(self.process(), lambda keys: (np.empty(0, np.int64), np.empty((0, 8))), 0, seed=0)
        self.look()

    @rule(numbers=NUMBERS, kind=st.sampled_from(["another encoder", "text", "empty"]))
    def bring_in_a_stranger(self, numbers: list[int], kind: str) -> None:
        """A file of the right name that is not of this encoder."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.strangers += 1
        name = f"part-stranger{self.strangers:04d}.parquet"  # the same in every run of the same steps
        if kind == "another encoder":
            other = EmbeddingCache(LocalFolder(self.root / "other"), self.settings.storage_dtype)
            other.append([KEYS[n] for n in numbers], -FRESH[numbers])
            shutil.copy(sorted((self.root / "other").glob("*.parquet"))[-1], self.path / name)
        else:
            (self.path / name).write_text("not parquet" if kind == "text" else "")

    @rule()
    def verify(self) -> None:
        """Everything encoded anew: what passes for good is what the encoder gives."""

        def encode(keys: Any) -> tuple[np.ndarray, np.ndarray]:
            return np.arange(len(keys)), FRESH[[PLACES[key] for key in keys]]

        before = {part.name for part in self.parts()}
        cache = self.process()
        found = verify(cache, encode, 1_000, seed=0)
        assert found.parts == len(before)
        assert found.compared == found.rows or found.wrong
        assert before - {part.name for part in self.parts()} == set(found.wrong)

    @rule(asked=ASKED)
    def ask(self, asked: list[int]) -> None:
        """The process that lives on: what is missing is encoded, everything comes back as asked."""
        items = pl.DataFrame(
            {
                "key": [KEYS[n] for n in asked],
                "text": [TEXTS[n] for n in asked],
                "image": [None] * len(asked),
            },
            schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
        )
        found = vectors_of(self.settings, self.root, items, "text")
        assert len(found) == len(asked)
        if asked:
            np.testing.assert_allclose(found, FRESH[asked], atol=self.tolerance)
        self.written |= set(asked)
        self.sure |= set(asked)

    @rule(asked=ASKED, rows=st.integers(1, 7), patient=st.booleans())
    def stream(self, asked: list[int], rows: int, patient: bool) -> None:
        """A stream of what is surely there, with compactions while it runs or not."""
        asked = [n for n in asked if n in self.sure]
        batches = []
        for batch in self.process().stream([KEYS[n] for n in asked], rows):
            batches.append(batch)
            if not patient:
                compact(self.process(), 2, FEW_BYTES, now=0.0)
        assert [len(batch) for batch in batches] == [
            len(asked[at : at + rows]) for at in range(0, len(asked), rows)
        ]
        if asked:
            np.testing.assert_allclose(np.concatenate(batches), FRESH[asked], atol=self.tolerance)

    @rule()
    def look(self) -> None:
        """Nothing is lost, nothing made up, nothing there twice, everything what the encoder gives."""
        cache = self.process()
        keys = cache.keys()["key"].to_list()
        assert len(keys) == len(set(keys))
        places = [PLACES[key] for key in keys]
        assert self.sure <= set(places) <= self.written
        if places:
            np.testing.assert_allclose(cache.read(keys), FRESH[places], atol=self.tolerance)

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.look()
            shutil.rmtree(self.root)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
