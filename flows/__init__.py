"""The jobs as recipes: which step, on what, giving what."""
