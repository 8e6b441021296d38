"""The commands of `overture`, one module per group; jobs/cli/main.py combines them."""
