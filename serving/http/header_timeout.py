"""A connection whose next request does not come: uvicorn's HTTP protocol with a limit on the time headers may take.

uvicorn waits for the rest of a request's headers as long as the connection stands, and calls the application only when
they are whole: only here can a client that sends them drop by drop be let go. A body is watched by serving/http/middleware.py.
From the connection, or the first byte after an answer, to the end of the next headers a client has `header_timeout_s` seconds.
What comes while an answer is still being made (a pipeline) waits for that answer without a clock of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.http.middleware import Guard

HEADERS_S = "OVERTURE_SERVICE_HEADERS_S"
_BODY = json.dumps({"error": "the request's headers did not come in time", "details": []}).encode()
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    + f"content-length: {len(_BODY)}\r\n\r\n".encode()
    + _BODY
)


class Patient(HttpToolsProtocol):
    """One connection; uvicorn makes it by name in each worker, so its limit comes through the environment."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.header_timeout_s = float(os.environ[HEADERS_S])
        self._waiting: asyncio.TimerHandle | None = None
        self._said = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The clock runs from here, for a client that says nothing at all too."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Something comes after an answer: a request, or blank lines before one."""
        if self._waiting is None and self.cycle is not None and self.cycle.response_complete:
            self._wait()
        self._said = True
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Its headers are whole."""
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The clock stops with the connection."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.header_timeout_s, self._too_slow)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        self._waiting = None
        # Browsers connect ahead: words on a silent line would be taken for the answer to what comes next.
        if self._said:
            self.transport.write(TOO_SLOW)
            assert isinstance(self.app, Guard)
            self.app.note_unread(self.header_timeout_s)
        self.transport.close()
