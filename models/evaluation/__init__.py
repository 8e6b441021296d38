"""Metrics and statistics: ranking metrics, A/B tests, off-policy estimates."""
