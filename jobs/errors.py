"""What went wrong in a task: one line for people, and the exit code that tells Airflow whether to try again."""

from contracts.errors import BadArgument, CheckFailed, OvertureError

__all__ = ["BadArgument", "CheckFailed", "OvertureError"]
