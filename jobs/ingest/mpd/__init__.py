"""Adapter for the Spotify Million Playlist Dataset."""
