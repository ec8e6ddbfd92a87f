"""A model of how letters reach aggregates, and the check of all its states."""
