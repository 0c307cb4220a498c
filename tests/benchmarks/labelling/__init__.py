"""The labelling benchmark: `python -m tests.benchmarks.labelling`; see `__main__` for what it measures."""
