"""Factories, small simulated services and servers that tests share."""
