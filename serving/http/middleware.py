"""Middleware around every request: keys, limits, request ids, security headers, one log line.

A log line is one JSON object: time, request id, route, status, milliseconds, release. It never contains an id of an
entity, a body, an address or a query, so nothing about a listener. No response contains a traceback.

Limits   size and time of the body; bytes of all bodies that are being received; requests that are being answered. A
         request beyond the last two is refused with 503 and Retry-After. The health routes have no limit.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import re
import secrets
import sys
import time
import traceback
from typing import Any

import orjson
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serving.http.messages import QUIET, RELEASE, REQUEST_ID, App, Message, Receive, Send
from serving.http.problems import CONTENT_TYPE, INTERNAL_ERROR, overloaded, problem
from serving.http.prometheus import Metrics
from serving.http.representation import accepts_gzip, negotiated
from serving.settings import ServiceSettings

LOG = logging.getLogger("overture.service")
TOO_LARGE, TOO_SLOW = 413, 408
ADMIN = "/v1/admin/"  # routes that change the service
MAX_RECEIVED_BODIES = 32  # bytes of the bodies that are being received, in bodies of the largest size
SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
SECURITY_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")  # of everything but the pages
TLS_ONLY = (b"strict-transport-security", b"max-age=31536000")


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


class Exchange:
    """One request: what the log line contains of it."""

    __slots__ = ("error", "headers", "is_head", "read", "release", "request_id", "start", "status")

    def __init__(self, headers: dict[bytes, bytes], is_head: bool, request_id: bytes) -> None:
        self.headers, self.is_head, self.request_id = headers, is_head, request_id
        self.start, self.read, self.status, self.release = time.perf_counter(), 0, 0, ""
        self.error: Exception | None = None


class ServiceMiddleware:
    """ASGI middleware that checks, limits and logs every request."""

    def __init__(self, app: App, settings: ServiceSettings, metrics: Metrics) -> None:
        """Wrap `app`."""
        self.app, self.metrics, self.settings = app, metrics, settings
        self.too_large = f"the body is larger than {settings.max_body_bytes} bytes"
        self.too_slow = f"the body did not arrive within {settings.body_timeout_s:g} s"
        self.body_s, self.max_bytes = settings.body_timeout_s, settings.max_body_bytes
        self.keys, self.admin_keys = split_keys(settings.api_key), split_keys(settings.admin_key)
        self.root_path = settings.root_path
        self.max_running, self.running = settings.max_concurrent_requests, 0
        self.n_arriving = 0  # requests whose headers have arrived and which have not started yet
        self.max_received, self.received = MAX_RECEIVED_BODIES * settings.max_body_bytes, 0
        self.headers = [*SECURITY_HEADERS, *([TLS_ONLY] if settings.behind_tls else [])]
        # Ids of requests: random for each process, and counted, which takes a fraction of a microsecond.
        self._process_id, self._numbers = secrets.token_hex(6).encode(), itertools.count()
        self._handle: App = self._respond
        if settings.cors_origins:  # around everything, so that errors too can be read by the pages of other origins
            self._handle = CORSMiddleware(
                self._respond,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
                allow_headers=["authorization", "content-type", "if-none-match", "x-api-key", REQUEST_ID.decode()],
                expose_headers=[RELEASE.decode(), REQUEST_ID.decode(), "etag", "retry-after", "deprecation", "sunset"],
            )

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request; other ASGI scopes are passed on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.n_arriving -= self.n_arriving > 0
        headers = dict(scope["headers"])
        is_head = scope["method"] == "HEAD"
        exchange = Exchange(headers, is_head, self.request_id(headers))
        if is_head:  # a route of GET responds, and its body is not sent
            scope = {**scope, "method": "GET"}
        if self.root_path and scope["path"].startswith(self.root_path):  # a proxy may remove the prefix or keep it
            scope = without_prefix(scope, self.root_path)
        scope["overture.exchange"] = exchange

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = [*message["headers"], (REQUEST_ID, exchange.request_id), *self.headers]
                has_policy = False
                for name, value in message["headers"]:
                    if name == RELEASE:
                        exchange.release = value.decode()
                    elif name == POLICY[0]:
                        has_policy = True
                if not has_policy:
                    headers.append(POLICY)
                message = {**message, "headers": headers}
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        await self._handle(scope, receive, observed_send)
        self._log_request(scope, exchange, time.perf_counter() - exchange.start)

    async def _respond(self, scope: Message, receive: Receive, send: Send) -> None:
        """Send the response to one request, or the reason why it is refused."""
        exchange: Exchange = scope["overture.exchange"]
        headers = exchange.headers
        if b"if-none-match" in headers or b"accept-encoding" in headers:
            tag, gzip = headers.get(b"if-none-match", b""), accepts_gzip(headers.get(b"accept-encoding", b""))
            if tag or gzip:
                send = negotiated(send, tag, gzip)
        refusal = self._refusal(scope, headers)
        if refusal:
            await _send_problem(send, *refusal)
            return
        limited, admitted = scope["path"] not in QUIET, False

        def admit() -> None:
            nonlocal admitted
            if limited and not admitted:
                if self.running >= self.max_running:
                    raise overloaded(f"{self.max_running} requests are being answered; send this one again later")
                self.running += 1
                admitted = True

        body_complete = False

        async def counted() -> Message:
            nonlocal body_complete
            if body_complete:  # the next message is the end of the connection, which has no limit
                return await receive()
            try:
                async with asyncio.timeout(exchange.start + self.body_s - time.perf_counter()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(TOO_SLOW, self.too_slow, {"connection": "close"}) from None
            body_complete = not message.get("more_body", False)
            n = len(message.get("body", b""))
            exchange.read += n
            self.received += n
            if exchange.read > self.max_bytes:
                raise HTTPException(TOO_LARGE, self.too_large, {"connection": "close"})
            if self.received > self.max_received:
                raise overloaded("too many large bodies are being received; send this one again later")
            if body_complete:  # a slow body takes no place of a request that is complete
                admit()
            return message

        try:
            if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
                admit()
            await self.app(scope, counted, send)
        except HTTPException as error:
            await _send_problem(send, error.status_code, error.detail, getattr(error, "code", ""), error.headers)
        except Exception as raised:  # no detail leaves the service
            exchange.error = raised
            if not exchange.status:
                await _send_problem(send, 500, INTERNAL_ERROR)
        finally:
            self.running -= admitted
            self.received -= exchange.read

    def _refusal(self, scope: Message, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        length, path = headers.get(b"content-length", b"0"), scope["path"]
        if length.isdigit() and int(length) > self.max_bytes:
            return TOO_LARGE, self.too_large
        if scope["method"] == "OPTIONS":
            return None
        if path == "/metrics" or path.startswith(ADMIN):
            keys = self.admin_keys if path.startswith(ADMIN) else self.admin_keys or self.keys
            if not keys and path.startswith(ADMIN):
                return 403, "admin routes need a key of their own: set service.admin_key"
        else:
            keys = self.keys if path.startswith("/v1") else ()
        if keys:
            given = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not any([hmac.compare_digest(given, key) for key in keys]):
                return 401, "the header x-api-key (or authorization: Bearer) is missing or wrong"
        return None

    def request_id(self, headers: dict[bytes, bytes]) -> bytes:
        """Return the request's own id if it is one word of at most 128 characters, else a new one."""
        given = headers.get(REQUEST_ID)
        if given is not None and SANE_REQUEST_ID.fullmatch(given):
            return given
        return b"%s-%x" % (self._process_id, next(self._numbers))

    @property
    def is_full(self) -> bool:
        """Whether the protocol may refuse a request; not with CORS, because its refusal has no such headers."""
        return self.running + self.n_arriving >= self.max_running and not self.settings.cors_origins

    def log_unread_request(self, status: int, seconds: float) -> None:
        """Count a request that was answered before the middleware, by the protocol."""
        exchange = Exchange({}, False, b"")
        exchange.status = status
        self._log_request({"method": None}, exchange, seconds)

    def _log_request(self, scope: Message, exchange: Exchange, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", None) or "other"
        self.metrics.observe_request(route, exchange.status, seconds)
        error = exchange.error
        if error is not None or (route not in QUIET and LOG.isEnabledFor(logging.INFO)):
            facts = {
                "route": route,
                "method": "HEAD" if exchange.is_head else scope["method"],
                "status": exchange.status,
                "ms": round(seconds * 1000, 3),
                "release": exchange.release[:12],
                "request_id": exchange.request_id.decode(),
            }
            if error is not None:
                facts |= error_facts(error)
            level = logging.ERROR if error is not None else logging.INFO
            # Like LOG.log, without looking up the calling line, which no log line contains.
            LOG.handle(LOG.makeRecord(LOG.name, level, __file__, 0, "request", (), None, extra={"facts": facts}))


def split_keys(secret: SecretStr) -> tuple[bytes, ...]:
    """Return the keys of a setting: none, one, or two separated by a comma."""
    return tuple(key.strip().encode() for key in secret.get_secret_value().split(",") if key.strip())


def without_prefix(scope: Message, prefix: str) -> Message:
    """Return the scope of a request whose path is below a prefix, without the prefix; others are unchanged."""
    path = scope["path"][len(prefix) :]
    return {**scope, "path": path} if path.startswith("/") else scope


async def _send_problem(send: Send, status: int, detail: str, code: str = "", more: Any = None) -> None:
    body = problem(status, detail, code)
    headers = [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % len(body))]
    headers += [(name.encode(), value.encode()) for name, value in (more or {}).items()]
    if status == TOO_LARGE and not more:
        headers.append((b"connection", b"close"))  # the rest of the body is not awaited
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
