"""Factories, small worlds and servers that tests share."""
