"""`python -m jobs.cli` runs the `overture` command."""

from jobs.cli.main import main

main()
