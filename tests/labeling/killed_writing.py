"""One run of writing examples in a process of its own, to be killed: database URL, the teacher's URL, concurrency."""

from __future__ import annotations

import sys

import polars as pl

from tasks.store import open_store
from tasks.store.labels import effective_labels
from tests.labeling.scripted import KETTLES
from tests.labeling.writing import starved, write

if __name__ == "__main__":
    url, base_url, concurrency = sys.argv[1:]
    store = open_store(url, "tiny")
    before = effective_labels(store).filter(pl.col("label") == KETTLES).height
    wanted = starved(below=200, most_share=0.95, kettles=before)[:1]
    done = write(store, base_url, wanted=wanted, run_id=1 + before, concurrency=int(concurrency))
    print(done.kept)
