"""Translation of the errors of `blockfactor` into the errors of the jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockfactor.errors import BlockfactorError, InvalidDataError, InvalidParameterError
from contracts.errors import BadArgument, CheckFailed, OvertureError


@contextmanager
def translate_library_errors(section: str, table: str) -> Iterator[None]:
    """Raise errors of `blockfactor` as errors with an exit code.

    Args:
        section: Section of the settings with the parameters, such as "als".
        table: Table with the input.

    Raises:
        BadArgument: A parameter is invalid; the message starts with `<section>.<parameter>`.
        CheckFailed: The input is invalid; the message starts with the table.
        OvertureError: Training failed; the message contains section and table.
    """
    try:
        yield
    except InvalidParameterError as error:
        raise BadArgument(f"{section}.{error}") from error
    except InvalidDataError as error:
        message = str(error)
        raise CheckFailed(message if message.startswith(f"{table}: ") else f"{table}: {message}") from error
    except BlockfactorError as error:
        raise OvertureError(f"{section}: {error} (table {table}, settings {section}.*)") from error
