"""Test that errors of blockfactor become errors with an exit code and a message with setting or table."""

import pytest

from blockfactor.errors import ConvergenceError, InvalidDataError, InvalidParameterError, WorkerPoolError
from contracts.errors import BadArgument, CheckFailed, OvertureError
from jobs.factorize.library_errors import translate_library_errors


@pytest.mark.parametrize(
    ("error", "expected", "exit_code", "message"),
    [
        (InvalidParameterError("d: too large"), BadArgument, 2, "als.d: too large"),
        (InvalidDataError("user_track: bad entry"), CheckFailed, 3, "user_track: bad entry"),
        (InvalidDataError("x: row 1 contains NaN"), CheckFailed, 3, "user_track: x: row 1 contains NaN"),
        (ConvergenceError("no loss"), OvertureError, 1, "als: no loss (table user_track, settings als.*)"),
        (WorkerPoolError("lost"), OvertureError, 1, "als: lost (table user_track, settings als.*)"),
    ],
)
def test_an_error_is_translated(error, expected, exit_code, message):
    with pytest.raises(OvertureError) as raised, translate_library_errors("als", "user_track"):
        raise error
    assert type(raised.value) is expected
    assert raised.value.exit_code == exit_code
    assert str(raised.value) == message


def test_other_errors_are_unchanged():
    with pytest.raises(KeyError), translate_library_errors("als", "user_track"):
        raise KeyError("x")
