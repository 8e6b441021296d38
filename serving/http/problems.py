"""Error responses: RFC 9457 (application/problem+json) with a stable `code` and the fields that are wrong.

    {"type": "urn:overture:problem:invalid_request", "title": "The request is invalid", "status": 422,
     "code": "invalid_request", "detail": "1 fields are invalid",
     "details": [{"field": "body.listener.age", "message": "Input should be less than or equal to 120"}]}

No message contains a value that was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.exceptions import HTTPException

CONTENT_TYPE = b"application/problem+json"
# Title by code. Codes are part of the API: a client may compare them.
TITLES = {
    "invalid_http": "The request is not HTTP",
    "invalid_json": "The body is not JSON",
    "unauthorized": "The key is missing or wrong",
    "forbidden": "The route is not open",
    "not_found": "The path does not exist",
    "unknown_entity": "The release or the store does not contain the entity",
    "method_not_allowed": "The path does not support the method",
    "request_timeout": "The request did not arrive in time",
    "body_too_large": "The body is too large",
    "unsupported_media_type": "The body is not sent as JSON",
    "invalid_request": "The request is invalid",
    "internal_error": "The service failed",
    "unavailable": "The service cannot respond now",
    "no_release": "No release is in service",
    "release_failed": "The release in service failed",
    "store_unavailable": "The store of known listeners is unavailable",
    "overloaded": "The service is overloaded",
}
CODES = {
    400: "invalid_json",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    500: "internal_error",
    503: "unavailable",
}
INTERNAL_ERROR = "internal error; the log of the service has the details"
RETRY_AFTER_S = 1  # of a request that is refused because the service is overloaded


class Refusal(HTTPException):
    """An error response with a code of its own."""

    def __init__(self, status: int, detail: str, code: str, headers: Mapping[str, str] | None = None) -> None:
        """Set status, message and code; the code must be one of `TITLES`."""
        super().__init__(status, detail, headers)
        self.code = code


def overloaded(detail: str) -> Refusal:
    """Return the 503 of a request that was refused because the service is overloaded."""
    return Refusal(503, detail, "overloaded", {"retry-after": str(RETRY_AFTER_S)})


def problem(status: int, detail: str, code: str = "", details: Sequence[Mapping[str, str]] = ()) -> bytes:
    """Return the body of an error response (schema.Problem).

    Args:
        status: HTTP status.
        detail: what is wrong with this request.
        code: one of `TITLES`; empty: the code of the status.
        details: rejected fields as {"field": ..., "message": ...}.
    """
    code = code or CODES.get(status, "invalid_request" if status < 500 else "internal_error")
    body: dict[str, Any] = {
        "type": f"urn:overture:problem:{code}",
        "title": TITLES[code],
        "status": status,
        "code": code,
        "detail": detail,
        "details": list(details),
    }
    return orjson.dumps(body)
