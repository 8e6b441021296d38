"""Adapter for the tables of the DSG17 skip-prediction challenge."""
