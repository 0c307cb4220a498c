"""The rooms of the flywheel, one concern each, over a ground floor: settings, taxonomy, records, store."""
