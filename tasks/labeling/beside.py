"""Works out what stands beside items in their prompts, for all that is due at once: candidates and examples.

Done before the first request leaves, so that nothing is computed while replies are awaited. Reads the database and
the embedding cache; chooses by the rules of `shortlist` and `examples`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sqlalchemy import select

from tasks.embedding.encoders import EncoderSettings
from tasks.embedding.vectors import vectors_of
from tasks.labeling.examples import Decided, choose_examples, may_be_shown
from tasks.labeling.requests import Item, Request
from tasks.labeling.shortlist import label_texts, label_vectors, listed_labels, nearest
from tasks.records import text_key
from tasks.store import Store, schema
from tasks.store.moved import current_labels
from tasks.store.traffic import audits
from tasks.synthetic import SYNTHETIC
from tasks.taxonomy import Taxonomy

ROWS_AT_ONCE = 65_536
ITEMS_A_LABEL = 50  # labelled items that say where a label lies

Bring = Callable[[pl.DataFrame], Callable[[Request], Request]]
"""From what is due (key, and text where the items are not stored) to requests whose items bring what is beside them."""


@dataclass(frozen=True, eq=False)
class Beside:
    """What was worked out, by the place of an item's key in `heads` (sorted)."""

    heads: NDArray[np.uint64]
    labels: Sequence[str]
    candidates: NDArray[np.int32]
    decided: Decided
    examples: NDArray[np.int32]

    def __call__(self, request: Request) -> Request:
        """The same request, its items with their candidates and examples; an unknown item stays as it is."""
        return replace(request, items=tuple(self._with(item) for item in request.items))

    def _with(self, item: Item) -> Item:
        head = np.uint64(int.from_bytes(item.key[:8], "little"))
        place = int(np.searchsorted(self.heads, head))
        if place == len(self.heads) or self.heads[place] != head:
            return item
        candidates = tuple(self.labels[label] for label in self.candidates[place])
        return replace(item, candidates=candidates, examples=self.decided.examples(self.examples[place]))


def bringing(
    store: Store,
    taxonomy: Taxonomy,
    encoder: EncoderSettings,
    root: Path | str,
    gold: pl.DataFrame,
    shortlist: int | None,
    examples: int,
    audit_window_days: float,
) -> Bring:
    """How items of a project are given their candidates and examples; nothing is read or encoded before it is used.

    Args:
        store: the open database.
        taxonomy: the labels; with as many candidates as labels, no item gets any.
        encoder: of the project.
        root: where the embedding cache lies.
        gold: key, text; neither an example nor a labelled item.
        shortlist: candidates an item.
        examples: examples an item.
        audit_window_days: audited items are no examples for so long.
    """

    def vectors(items: pl.DataFrame) -> NDArray[np.float32]:
        images = pl.lit(None, pl.Binary).alias("image")
        return vectors_of(encoder, root, items.select("key", "text", images), "text")

    def bring(due: pl.DataFrame) -> Callable[[Request], Request]:
        stored = _texts(store)
        labels = _labels_of_items(store, taxonomy, gold)
        items = (
            due.select("key", "text") if "text" in due.columns else due.select("key").join(stored, on="key")
        )
        items = items.unique("key").sort(pl.col("key").bin.slice(0, 8).bin.reinterpret(dtype=pl.UInt64))
        wanted = min(shortlist or 0, len(listed_labels(taxonomy)))
        if wanted == len(listed_labels(taxonomy)):
            wanted = 0
        L = np.zeros((0, 0), np.float32)
        if wanted:
            L = _labels(taxonomy, labels.join(stored, on="key"), vectors)
        decided = _decided(store, taxonomy, labels, stored, gold, audit_window_days, vectors, examples)
        candidates, shown = [np.zeros((0, wanted), np.int32)], [np.zeros((0, examples), np.int32)]
        for slab in items.iter_slices(ROWS_AT_ONCE):
            X = vectors(slab)
            candidates.append(nearest(X, L, wanted) if wanted else np.zeros((len(X), 0), np.int32))
            shown.append(choose_examples(slab["text"].to_list(), X, decided, examples))
        heads = np.frombuffer(b"".join(key[:8] for key in items["key"]), "<u8")
        places = np.concatenate(candidates), np.concatenate(shown)
        return Beside(heads, listed_labels(taxonomy), places[0], decided, places[1])

    return bring


def _texts(store: Store) -> pl.DataFrame:
    columns = schema.items.c
    return store.read(select(columns.key, columns.text).where(columns.text.is_not(None)))


def _labels(
    taxonomy: Taxonomy,
    labelled: pl.DataFrame,
    vectors: Callable[[pl.DataFrame], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Where the labels lie; of each some items, the same in every run because keys are hashes."""
    # The labels' texts are cached like items: a router works this out for every shard.
    written = label_texts(taxonomy)
    texts = vectors(pl.DataFrame({"key": [text_key(text) for text in written], "text": written}))
    place = {label: number for number, label in enumerate(listed_labels(taxonomy))}
    some = (
        labelled.filter(pl.col("label").is_in(list(place))).sort("key").group_by("label").head(ITEMS_A_LABEL)
    )
    if not some.height:
        return label_vectors(texts, np.zeros((0, texts.shape[1]), np.float32), [])
    return label_vectors(texts, vectors(some), [place[label] for label in some["label"]])


def _decided(
    store: Store,
    taxonomy: Taxonomy,
    labels: pl.DataFrame,
    stored: pl.DataFrame,
    gold: pl.DataFrame,
    audit_window_days: float,
    vectors: Callable[[pl.DataFrame], NDArray[np.float32]],
    examples: int,
) -> Decided:
    if not examples:
        return Decided((), (), np.zeros((0, 0), np.float32))
    shown = _shown(store, taxonomy, labels, stored, gold, audit_window_days)
    return Decided(shown["text"].to_list(), shown["label"].to_list(), vectors(shown))


def examples_there_are(
    store: Store, taxonomy: Taxonomy, gold: pl.DataFrame, audit_window_days: float
) -> list[tuple[str, str]]:
    """The decided items (text, label) out of which `bringing` would choose examples now; nothing is encoded."""
    labels, stored = _labels_of_items(store, taxonomy, gold), _texts(store)
    return list(
        _shown(store, taxonomy, labels, stored, gold, audit_window_days).select("text", "label").iter_rows()
    )


def _labels_of_items(store: Store, taxonomy: Taxonomy, gold: pl.DataFrame) -> pl.DataFrame:
    labels = current_labels(store, taxonomy).filter(pl.col("source") != SYNTHETIC)
    return labels.join(gold.select("key"), on="key", how="anti", maintain_order="left")


def _shown(
    store: Store,
    taxonomy: Taxonomy,
    labels: pl.DataFrame,
    stored: pl.DataFrame,
    gold: pl.DataFrame,
    audit_window_days: float,
) -> pl.DataFrame:
    columns = schema.traffic.c
    escalated = store.read(select(columns.key).where(columns.tier == "teacher").distinct())
    watched = audits(store, audit_window_days).select("key")
    return may_be_shown(labels, stored, escalated, gold.select("key", "text"), watched, taxonomy.leaves)
