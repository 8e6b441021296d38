"""All settings of the jobs, with defaults, bounds and descriptions."""
