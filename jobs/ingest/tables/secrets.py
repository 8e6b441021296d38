"""Values from the environment that never reach a message or a log."""

from __future__ import annotations

import os

from contracts.errors import BadArgument
from jobs.settings.tables import SECRET


class Secrets:
    """Reads `env:NAME` values and removes them from messages."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def value(self, text: str, where: str) -> str:
        """Return the text, or the value of the variable if the text is `env:NAME`.

        Args:
            text: A value of the settings.
            where: Dotted name of the setting, for the message.

        Raises:
            BadArgument: The variable is not set or empty.
        """
        if not text.startswith(SECRET):
            return text
        name = text.removeprefix(SECRET)
        value = os.environ.get(name, "")
        if not value:
            raise BadArgument(f"{where}: the environment variable {name} is not set; export it and run again")
        self._values[value] = text
        return value

    def redact(self, message: str) -> str:
        """Return the message with every value that was read replaced by its `env:NAME`."""
        for value in sorted(self._values, key=len, reverse=True):
            message = message.replace(value, self._values[value])
        return message
