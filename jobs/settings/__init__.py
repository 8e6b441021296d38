"""Every setting of the jobs, with its default, bounds and description."""
