"""The online service over one release."""
