"""Recommendations from one release: signals, lookup, lists and reasons."""
