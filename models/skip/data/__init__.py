"""Plays: schema, cleaning, splits and the history they come from."""
