"""A process to be killed: appends shards of numbered vectors to a cache, or compacts it, until somebody ends it.

Run as `python -m tests.embedding.killed_caching FOLDER write|compact SEED`; says `ready` once it works.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.compaction import compact
from tests.embedding.numbered import append

NUMBERS = 2_000


def main() -> None:
    folder, work, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    cache, rng, said = EmbeddingCache(folder), np.random.default_rng(seed), False
    while True:
        if work == "write":
            append(cache, rng.choice(NUMBERS, rng.integers(1, 40), replace=False).tolist())
        else:
            compact(cache, at_least=4, target_bytes=4_000)
        if not said:
            print("ready", flush=True)
            said = True


if __name__ == "__main__":
    main()
