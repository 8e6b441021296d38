"""The commands of `overture` by room; jobs/cli.py puts them together."""
