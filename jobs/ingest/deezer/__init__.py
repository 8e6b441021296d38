"""Adapter for the public dataset of the cold-start paper."""
