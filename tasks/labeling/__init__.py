"""Asking the teacher: what, how, at what price, and what its answers amount to."""
