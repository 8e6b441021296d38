"""Metrics and feature importance of the skip models."""
