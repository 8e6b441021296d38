"""Sources: adapters from data formats to the raw tables."""
