"""Adapter for the Last.fm 1K dataset."""
