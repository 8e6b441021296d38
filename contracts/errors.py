"""Errors of all rooms, each with the exit code of a command that ends with it.

Code 1 is retried by the scheduler; 2 and 3 are not; after 4 the pipeline waits and tries again.
"""


class OvertureError(Exception):
    """An error whose message names the cause and what to do. Exit code 1: a retry may succeed."""

    exit_code = 1


class BadArgument(OvertureError):
    """A wrong argument or setting. Exit code 2: a retry fails again."""

    exit_code = 2


class NotFound(BadArgument):
    """An id that does not exist, for example of a track or a user. The service responds with status 404."""


class CheckFailed(OvertureError):
    """A failed data check, a damaged release or a gate's "fail". Exit code 3: a retry fails again."""

    exit_code = 3


class NotReady(OvertureError):
    """Input that is not complete yet and is still awaited. Exit code 4: the pipeline waits and tries again."""

    exit_code = 4
