"""Data of the skip models: plays, cleaning rules, splits and play histories."""
