"""Calibrated ensemble of the skip models."""
