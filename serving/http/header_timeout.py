"""uvicorn's HTTP protocol with time limits for a client that sends or reads slowly.

Headers    uvicorn waits for the rest of a request's headers without a limit and calls the application when they are
           complete, so only the protocol can close the connection of a client that sends them too slowly. From the
           connection, or from the first byte after a response, a client has `header_timeout_s` seconds for the next
           headers. Requests that arrive during a response (pipelining) wait without a limit
Responses  what the socket does not accept stays in memory. A client has `write_timeout_s` seconds to read a response;
           then its connection is aborted
Bodies     are limited in serving/http/middleware.py
Overload   where as many requests as the service answers at once are running or about to start, a further one is
           refused here, without a task of its own: refusals would otherwise delay the other requests. Its body has
           `header_timeout_s` seconds to arrive
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.http.messages import QUIET
from serving.http.middleware import ServiceMiddleware
from serving.http.problems import CONTENT_TYPE, RETRY_AFTER_S, problem


def early_response(status: bytes, body: bytes) -> bytes:
    """Return a response that ends its connection; `status` is the status with its phrase."""
    head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    return head % (status, CONTENT_TYPE, len(body)) + body


TOO_SLOW = early_response(b"408 Request Timeout", problem(408, "the request's headers did not arrive in time"))
OVERLOADED = problem(
    503, "as many requests as the service answers at once are running; send this one again later", "overloaded"
)
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: %s\r\nretry-after: %d\r\ncontent-length: %d\r\n" % (
    CONTENT_TYPE,
    RETRY_AFTER_S,
    len(OVERLOADED),
)
NOT_HTTP = early_response(b"400 Bad Request", problem(400, "the request is not valid HTTP", "invalid_http"))


class HeaderTimeoutProtocol(HttpToolsProtocol):
    """One connection. Its limits are those of the application's settings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.app, ServiceMiddleware)
        self.service = self.app
        self.header_timeout_s = self.service.settings.header_timeout_s
        self.write_timeout_s = self.service.settings.write_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._received_bytes = False
        self._refused = False  # the request that is being received
        self._n_responses = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, also for a client that sends nothing."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Start the clock with the first bytes after a response: a request, or blank lines before one."""
        if self._timer is None and not self._refused and (self.cycle is None or self.cycle.response_complete):
            self._start_timer()
        self._received_bytes = True
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Stop the clock when the headers are complete; refuse the request if the service is overloaded."""
        self._stop_timer()
        if self.service.is_full and self._is_refusable():
            self._refused = True
            self._start_timer()
            return
        before = self.cycle
        super().on_headers_complete()
        self.service.n_arriving += self.cycle is not before

    def _is_refusable(self) -> bool:
        """Return whether the request is an ordinary one that follows a complete response."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() != b"HEAD"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and self.url.partition(b"?")[0].decode("latin-1").removeprefix(self.service.root_path) not in QUIET
        )

    def on_body(self, body: bytes) -> None:
        """Drop the body of a refused request."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Respond to a refused request when it has arrived completely; the connection stays open."""
        if not self._refused:
            super().on_message_complete()
            return
        self._refused = False
        self._stop_timer()
        keeps_open = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        request_id = self.service.request_id(dict(self.headers))
        end = b"x-request-id: %s\r\n%s\r\n" % (request_id, b"" if keeps_open else b"connection: close\r\n")
        self.transport.write(REFUSED + end + OVERLOADED)
        self.service.log_unread_request(503, 0.0)
        if not keeps_open:
            self.transport.close()
            return
        self._n_responses += 1
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks when the connection ends."""
        self._stop_timer()
        self.service.n_arriving -= len(self.pipeline)  # these never start
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the clock of a response of which much is unread."""
        super().pause_writing()
        self._start_write_timer()

    def on_response_complete(self) -> None:
        """Start the clock of a complete response; one clock per connection runs at a time."""
        super().on_response_complete()
        self._n_responses += 1
        if self._write_timer is None:
            self._start_write_timer()

    def send_400_response(self, msg: str) -> None:
        """Respond to bytes that are not HTTP."""
        self.transport.write(NOT_HTTP)
        self.service.log_unread_request(400, 0.0)
        self.transport.close()

    def _start_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._write_timer = self.loop.call_later(self.write_timeout_s, self._end_unread_response, self._n_responses)

    def _end_unread_response(self, n_responses: int) -> None:
        self._write_timer = None
        if self.transport.get_write_buffer_size() == 0:
            return
        if n_responses == self._n_responses:
            self.transport.abort()
        else:  # part of a later response, whose time has not passed yet
            self._start_write_timer()

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
            self.service.log_unread_request(408, self.header_timeout_s)
        self.transport.close()
