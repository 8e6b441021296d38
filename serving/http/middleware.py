"""What stands around every request: the key, size and time of a body, the clock, one line of log, no traceback outside.

A line of log is one JSON object: when, which route, status, milliseconds, release. It never holds an id, a body, an
address or a query: nothing of a listener.
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
QUIET = ("/healthz", "/readyz", "/metrics")  # asked every few seconds: counted, not logged


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """`extra={"facts": {...}}` goes into the object."""
        facts: dict[str, Any] = getattr(record, "facts", {})
        said = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **facts,
        }
        if record.exc_info and record.exc_info[1]:
            said |= trouble(record.exc_info[1])
        return orjson.dumps(said, default=str).decode()


def log_to_stderr(level: int = logging.INFO) -> None:
    """Everything this process logs, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def trouble(error: BaseException) -> dict[str, Any]:
    """An error by its kind and places in the code; its message may hold what a listener sent."""
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__name__, "where": [f"{frame.name}:{frame.lineno}" for frame in frames[-4:]]}


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: App, settings: ServiceSettings, metrics: Metrics) -> None:
        """`app` answers what is let through."""
        self.app, self.metrics = app, metrics
        self.too_large = f"the body is larger than {settings.max_body_bytes} bytes"
        self.too_slow = f"the body did not come within {settings.body_timeout_s:g} s"
        self.body_s = settings.body_timeout_s
        self.key, self.most = settings.api_key.get_secret_value().encode(), settings.max_body_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request; anything else is passed on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, read, whole = time.perf_counter(), 0, False
        seen: dict[str, Any] = {"status": 0, "release": ""}

        async def counted() -> Message:
            nonlocal read, whole
            if whole:  # what comes next is the end of the connection: nobody is hurried to that
                return await receive()
            try:
                async with asyncio.timeout(start + self.body_s - time.perf_counter()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(TOO_SLOW, self.too_slow, {"connection": "close"}) from None
            whole = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self.most:
                raise HTTPException(TOO_LARGE, self.too_large, {"connection": "close"})
            return message

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                seen["release"] = next((value.decode() for name, value in message["headers"] if name == RELEASE), "")
            await send(message)

        error: Exception | None = None
        refusal = self._refusal(scope)
        if refusal:
            await _say(noted, *refusal)
        else:
            try:
                await self.app(scope, counted, noted)
            except Exception as raised:  # nothing of it goes outside
                error = raised
                if not seen["status"]:
                    await _say(noted, 500, "the service failed; its log says where")
        self._note(scope, seen, time.perf_counter() - start, error)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most:
            return TOO_LARGE, self.too_large
        if self.key and scope["path"].startswith("/v1") and scope["method"] != "OPTIONS":
            given = headers.get(b"x-api-key", b"")
            if not hmac.compare_digest(given, self.key):
                return 401, "the header x-api-key is missing or wrong"
        return None

    def note_unread(self, seconds: float) -> None:
        """Count a request whose headers did not come in time: its connection was answered before it reached us."""
        self._note({"method": None}, {"status": TOO_SLOW, "release": ""}, seconds, None)

    def _note(self, scope: Message, seen: dict[str, Any], seconds: float, error: Exception | None) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        self.metrics.answered_in(route, seen["status"], seconds)
        if error is not None or (route not in QUIET and LOG.isEnabledFor(logging.INFO)):
            facts = {
                "route": route,
                "method": scope["method"],
                "status": seen["status"],
                "ms": round(seconds * 1000, 3),
                "release": seen["release"][:12],
            }
            if error is not None:
                facts |= trouble(error)
            level = logging.ERROR if error is not None else logging.INFO
            # As LOG.log, but for looking up the line of code that speaks: no line of log names it.
            LOG.handle(LOG.makeRecord(LOG.name, level, __file__, 0, "request", (), None, extra={"facts": facts}))


async def _say(send: Send, status: int, error: str) -> None:
    body = json.dumps({"error": error, "details": []}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == TOO_LARGE:
        headers.append((b"connection", b"close"))  # what is still on its way is not waited for
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
