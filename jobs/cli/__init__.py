"""The commands of `overture` by room; jobs/cli/main.py puts them together."""
