"""A/B tests: registered before they start, analysed over listeners; off-policy estimates; simulation."""
