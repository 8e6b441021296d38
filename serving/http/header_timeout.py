"""uvicorn's HTTP protocol with a time limit for the headers of a request.

uvicorn waits for the rest of a request's headers without a limit and calls the application when they are complete, so
only the protocol can close the connection of a client that sends them too slowly. Bodies are limited in
serving/http/middleware.py. From the connection, or from the first byte after a response, a client has
`header_timeout_s` seconds for the next headers. Requests that arrive during a response (pipelining) wait without a
limit.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.http.middleware import ServiceMiddleware

HEADERS_S = "OVERTURE_SERVICE_HEADERS_S"
_BODY = json.dumps({"error": "the request's headers did not arrive in time", "details": []}).encode()
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    + f"content-length: {len(_BODY)}\r\n\r\n".encode()
    + _BODY
)


class HeaderTimeoutProtocol(HttpToolsProtocol):
    """One connection. uvicorn creates it by class name in each worker, so the limit comes through the environment."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.header_timeout_s = float(os.environ[HEADERS_S])
        self._timer: asyncio.TimerHandle | None = None
        self._received_bytes = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, also for a client that sends nothing."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Start the clock with the first bytes after a response: a request, or blank lines before one."""
        if self._timer is None and self.cycle is not None and self.cycle.response_complete:
            self._start_timer()
        self._received_bytes = True
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Stop the clock when the headers are complete."""
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock when the connection ends."""
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout_s, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
        # Browsers open connections ahead: a response on an idle connection would be taken for the next request's.
        if self._received_bytes:
            self.transport.write(TOO_SLOW)
            assert isinstance(self.app, ServiceMiddleware)
            self.app.log_unread_request(self.header_timeout_s)
        self.transport.close()
