"""Types of ASGI, and names of the service's headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

RELEASE, REQUEST_ID = b"x-overture-release", b"x-request-id"
QUIET = ("/healthz", "/readyz", "/metrics")  # requested every few seconds: counted, not logged, and never refused
