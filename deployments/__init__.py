"""Processes: the command line, the simulated teacher, the standing stack."""
