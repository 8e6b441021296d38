"""The mathematics of the skip engine."""
