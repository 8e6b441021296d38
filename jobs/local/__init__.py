"""Run everything on one machine: the demo and its background services."""
