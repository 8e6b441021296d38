"""Paths in the form in which Spark reads exactly the file that they name."""

from __future__ import annotations

import re


def spark_path(path: str) -> str:
    """Return a path with the characters of globs, which Spark would expand, escaped."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", path)
