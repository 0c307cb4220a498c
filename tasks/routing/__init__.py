"""Which tier answers an item, and the audit that watches it."""
