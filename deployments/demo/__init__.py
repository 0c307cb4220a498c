"""The demo: two turns of the wheel on data with a known truth, and a table that does not flatter."""
