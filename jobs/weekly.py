"""Open and close a week's parent run in MLflow."""

from __future__ import annotations

from typing import Any

from jobs import tracking
from jobs.context import Context
from jobs.errors import BadArgument


def run(context: Context, step: str) -> dict[str, Any]:
    """`begin` creates the experiment and the parent run once; `complete` ends it with the week's summary."""
    if step == "begin":
        return tracking.start_week(context)
    if step == "complete":
        return tracking.finish_week(context)
    raise BadArgument(f"step: '{step}' is neither begin nor complete")
