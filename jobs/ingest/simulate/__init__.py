"""A simulated streaming service: listeners, catalogue, events and experiment users."""
