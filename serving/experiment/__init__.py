"""Online A/B tests: assignment and exposure log."""
