"""Adapters from real formats to the first four tables."""
