"""One labelling run in a process, to be killed: database URL, base URL, concurrency, items to a call, stages."""

from __future__ import annotations

import sys

from tasks.labeling.labelling import label_items
from tasks.store import open_store
from tests.labeling.scripted import NO_KEYS, how

if __name__ == "__main__":
    url, base_url, concurrency, items_per_call, stages = sys.argv[1:]
    store = open_store(url, "tiny")
    asked = how(
        base_url, concurrency=int(concurrency), items_per_call=int(items_per_call), stages=int(stages)
    )
    done = label_items(store, asked, 2, None, NO_KEYS, 1)
    print(done.calls)
