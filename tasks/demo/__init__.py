"""The generators of the embedded demo and its simulated reviewer."""
