"""The calibrated ensemble of the skip models."""
