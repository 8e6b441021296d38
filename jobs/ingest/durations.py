"""Lengths of tracks as sources write them."""

from __future__ import annotations

from typing import Any

MAX_DURATION_S = 86_400


def duration_s(milliseconds: Any) -> int | None:
    """Return a duration in whole seconds; None if it is missing, no number, or outside the contract of `tracks`."""
    if type(milliseconds) not in (int, float) or not 500 <= milliseconds < MAX_DURATION_S * 1000 + 500:
        return None
    return int(milliseconds + 500) // 1000
