"""Metrics and statistics: ranking metrics, experiments, off-policy estimates."""
