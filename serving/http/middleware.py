"""Middleware around every request: API key, size and time limits of the body, one log line, no traceback in responses.

A log line is one JSON object: time, route, status, milliseconds, release. It never contains an id, a body, an address
or a query, so nothing about a listener.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException

from serving.http.prometheus import Metrics
from serving.settings import ServiceSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOG = logging.getLogger("overture.service")
RELEASE = b"x-overture-release"
TOO_LARGE, TOO_SLOW = 413, 408
QUIET = ("/healthz", "/readyz", "/metrics")  # requested every few seconds: counted, not logged


class JsonLines(logging.Formatter):
    """Formats log records as one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; `extra={"facts": {...}}` is merged into the object."""
        facts: dict[str, Any] = getattr(record, "facts", {})
        entry = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **facts,
        }
        if record.exc_info and record.exc_info[1]:
            entry |= error_facts(record.exc_info[1])
        return orjson.dumps(entry, default=str).decode()


def log_to_stderr(level: int = logging.INFO) -> None:
    """Log everything of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def error_facts(error: BaseException) -> dict[str, Any]:
    """Return the class of an error and where it was raised; its message may contain a listener's data."""
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__name__, "where": [f"{frame.name}:{frame.lineno}" for frame in frames[-4:]]}


class ServiceMiddleware:
    """ASGI middleware that checks, limits and logs every request."""

    def __init__(self, app: App, settings: ServiceSettings, metrics: Metrics) -> None:
        """Wrap `app`."""
        self.app, self.metrics = app, metrics
        self.too_large = f"the body is larger than {settings.max_body_bytes} bytes"
        self.too_slow = f"the body did not arrive within {settings.body_timeout_s:g} s"
        self.body_s = settings.body_timeout_s
        self.key, self.max_bytes = settings.api_key.get_secret_value().encode(), settings.max_body_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request; other ASGI scopes are passed on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, read, body_complete = time.perf_counter(), 0, False
        without_body = scope["method"] == "HEAD"
        if without_body:  # a route of GET responds, and its body is not sent
            scope = {**scope, "method": "GET"}
        observed: dict[str, Any] = {"status": 0, "release": ""}

        async def counted() -> Message:
            nonlocal read, body_complete
            if body_complete:  # the next message is the end of the connection, which has no limit
                return await receive()
            try:
                async with asyncio.timeout(start + self.body_s - time.perf_counter()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(TOO_SLOW, self.too_slow, {"connection": "close"}) from None
            body_complete = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self.max_bytes:
                raise HTTPException(TOO_LARGE, self.too_large, {"connection": "close"})
            return message

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                observed["status"] = message["status"]
                observed["release"] = next(
                    (value.decode() for name, value in message["headers"] if name == RELEASE), ""
                )
            elif without_body:
                message = {**message, "body": b""}
            await send(message)

        error: Exception | None = None
        refusal = self._refusal(scope)
        if refusal:
            await _send_error(observed_send, *refusal)
        else:
            try:
                await self.app(scope, counted, observed_send)
            except Exception as raised:  # no detail leaves the service
                error = raised
                if not observed["status"]:
                    await _send_error(observed_send, 500, "internal error; the log of the service has the details")
        if without_body:
            scope["method"] = "HEAD"
        self._log_request(scope, observed, time.perf_counter() - start, error)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_bytes:
            return TOO_LARGE, self.too_large
        if self.key and scope["path"].startswith("/v1") and scope["method"] != "OPTIONS":
            given = headers.get(b"x-api-key", b"")
            if not hmac.compare_digest(given, self.key):
                return 401, "the header x-api-key is missing or wrong"
        return None

    def log_unread_request(self, seconds: float) -> None:
        """Count a request whose headers did not arrive in time: its connection was answered before the middleware."""
        self._log_request({"method": None}, {"status": TOO_SLOW, "release": ""}, seconds, None)

    def _log_request(self, scope: Message, observed: dict[str, Any], seconds: float, error: Exception | None) -> None:
        route = getattr(scope.get("route"), "path_format", None) or "other"
        self.metrics.observe_request(route, observed["status"], seconds)
        if error is not None or (route not in QUIET and LOG.isEnabledFor(logging.INFO)):
            facts = {
                "route": route,
                "method": scope["method"],
                "status": observed["status"],
                "ms": round(seconds * 1000, 3),
                "release": observed["release"][:12],
            }
            if error is not None:
                facts |= error_facts(error)
            level = logging.ERROR if error is not None else logging.INFO
            # Like LOG.log, without looking up the calling line, which no log line contains.
            LOG.handle(LOG.makeRecord(LOG.name, level, __file__, 0, "request", (), None, extra={"facts": facts}))


async def _send_error(send: Send, status: int, error: str) -> None:
    body = json.dumps({"error": error, "details": []}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == TOO_LARGE:
        headers.append((b"connection", b"close"))  # the rest of the body is not awaited
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
