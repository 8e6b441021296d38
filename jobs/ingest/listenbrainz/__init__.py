"""Adapter for the ListenBrainz dumps."""
