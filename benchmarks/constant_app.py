"""An ASGI application with a constant response of 50 tracks: what server and sender cost without the service."""

from __future__ import annotations

import json
from typing import Any

TRACK = {"track_id": "100001", "title": "A title", "artist_id": "1001", "artist": "An artist", "album_id": "10001"}
BODY = json.dumps({"tracks": [TRACK] * 50}).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(_: Any, receive: Any, send: Any) -> None:
    """Read one request and respond."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
