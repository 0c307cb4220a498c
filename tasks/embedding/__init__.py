"""Turning items into vectors once and keeping them."""
