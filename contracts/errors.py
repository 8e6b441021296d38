"""What went wrong, and the exit code that tells a scheduler whether a second try makes sense."""


class OvertureError(Exception):
    """Anything that a person can act on; exit code 1, retried."""

    exit_code = 1


class BadArgument(OvertureError):
    """A wrong argument or setting; exit code 2, not retried."""

    exit_code = 2


class CheckFailed(OvertureError):
    """A contract, a data check, a damaged release or the gate said no; exit code 3, not retried."""

    exit_code = 3
