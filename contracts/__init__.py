"""One YAML a table, the loader, and the expectations made from it."""

from contracts.loader import Column, Contract, load, names

__all__ = ["Column", "Contract", "load", "names"]
