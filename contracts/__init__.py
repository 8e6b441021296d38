"""Contracts of the tables: one YAML file per table, the loader, and the expectations made from them."""

from contracts.loader import Column, Contract, load, names

__all__ = ["Column", "Contract", "load", "names"]
