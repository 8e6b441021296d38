"""Tools for maintainers: reference pages, link check, screenshots."""
