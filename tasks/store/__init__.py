"""The database: the one place where what was paid for and what was decided is kept."""

from tasks.store.database import Store, open_store

__all__ = ["Store", "open_store"]
