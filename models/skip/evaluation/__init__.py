"""Metrics and permutation importance of the skip models."""
