"""Skip probabilities and re-ranking from a release of the skip engine."""
