"""One labelling run in a process of its own, to be killed: database URL, the teacher's base URL, concurrency."""

from __future__ import annotations

import sys

from tasks.labeling.labelling import label_items
from tasks.store import open_store
from tests.labeling.scripted import NO_KEYS, how

if __name__ == "__main__":
    url, base_url, concurrency = sys.argv[1:]
    store = open_store(url, "tiny")
    done = label_items(store, how(base_url, concurrency=int(concurrency)), 2, None, NO_KEYS, 1)
    print(done.calls)
