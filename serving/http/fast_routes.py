"""A FastAPI application that finds the routes with one JSON body by method and path, before FastAPI's router.

FastAPI describes these routes and could serve them too, but what runs before its endpoints (middleware, routers tried
in turn, two exit stacks per request) costs several times as much as a response. Bodies, errors and responses are the
same on both ways, because the same functions make them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import cached_property
from inspect import iscoroutinefunction
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from contracts.errors import BadArgument, NotFound
from serving.http.middleware import RELEASE, Message, Receive
from serving.schema import RENAMED_FIELDS

SHOWN_ERRORS = 20
HANDLED_ERRORS = (RequestValidationError, HTTPException, BadArgument)


class PrebuiltJsonResponse(Response):
    """A JSON response with precomputed headers."""

    def __init__(self, body: bytes, status: int, release: str | None) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        if release is not None:
            self.raw_headers.append((RELEASE, release.encode()))


def as_json(data: Any, status: int = 200, release: str | None = None) -> Response:
    """Return a JSON response that names its release in a header."""
    return PrebuiltJsonResponse(orjson.dumps(data), status, release)


class JsonBodyRoute(APIRoute):
    """A route whose one argument is its body, which is read and validated in one pass."""

    @cached_property
    def model(self) -> type[BaseModel]:
        """The model of the body."""
        (field,) = self.dependant.body_params
        model = field.field_info.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        return model

    @cached_property
    def endpoint_async(self) -> Callable[[Any], Awaitable[Response]]:
        """The endpoint as a coroutine function; an ordinary function runs in a thread."""
        endpoint = self.endpoint
        return endpoint if iscoroutinefunction(endpoint) else lambda parsed: run_in_threadpool(endpoint, parsed)

    async def respond(self, scope: Message, receive: Receive) -> Response:
        """Return the response to one request.

        Raises:
            HTTPException: 415 if the content type is not JSON.
            RequestValidationError: the body does not match its model.
        """
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if content_type.partition(b";")[0].strip().lower() != b"application/json":
            raise HTTPException(415, "the header content-type must be application/json")
        body = await read_body(receive)
        try:
            parsed = self.model.model_validate_json(body)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in errors]) from None
        return await self.endpoint_async(parsed)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI uses when the route is reached through its router."""

        async def respond(request: Request) -> Response:
            return await self.respond(request.scope, request.receive)

        return respond


async def read_body(receive: Receive) -> bytes:
    """Return the whole body of a request.

    Raises:
        ClientDisconnect: the client disconnected before the end.
    """
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


class FastRoutesApp(FastAPI):
    """FastAPI behind a lookup table of routes."""

    def __init__(self, **about: Any) -> None:
        """Create the application with the arguments of FastAPI."""
        super().__init__(**about)
        self._routes_by_path: dict[tuple[str, str], JsonBodyRoute] = {}
        for kind in HANDLED_ERRORS:
            self.add_exception_handler(kind, handle_refusal)

    def include_fast_routes(self, router: APIRouter) -> None:
        """Include a router all of whose routes take one JSON body, and add them to the lookup table."""
        self.include_router(router)
        for route in router.routes:
            assert isinstance(route, JsonBodyRoute)
            self._routes_by_path |= {(method, route.path): route for method in route.methods or ()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request, or the lifespan of the application."""
        route = self._routes_by_path.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await super().__call__(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await route.respond(scope, receive)
        except HANDLED_ERRORS as error:
            response = error_response(error)
        await response(scope, receive, send)


async def handle_refusal(_: Request, error: Exception) -> Response:
    """Exception handler that returns `refusal`."""
    return error_response(error)


def message_of(error: dict[str, Any]) -> str:
    """Return the message of a validation error; that of a renamed request field contains its new name.

    /v1/skips took tracks as bare ids once: the message for an entry that is no object shows the form of a track.
    """
    path = tuple(error["loc"])
    if error["type"] == "extra_forbidden" and len(path) == 2 and path[0] == "body" and path[1] in RENAMED_FIELDS:
        return f"{path[1]} was renamed to {RENAMED_FIELDS[path[1]]}"
    if error["type"] == "model_type" and path[:2] == ("body", "tracks"):
        return 'a track is an object such as {"track_id": "1003"}'
    return str(error["msg"])


def error_response(error: Exception) -> Response:
    """Return the error response to an invalid request: what is wrong by field, never the value that was sent."""
    if isinstance(error, RequestValidationError):
        errors = error.errors()
        if any(one["type"] == "json_invalid" for one in errors):
            return as_json({"error": "the body is not JSON", "details": []}, 400)
        details = [
            {"field": ".".join(str(part)[:80] for part in item["loc"]), "message": message_of(item)}
            for item in errors[:SHOWN_ERRORS]
        ]
        return as_json({"error": f"{len(errors)} fields are invalid", "details": details}, 422)
    if isinstance(error, HTTPException):
        respond = as_json({"error": str(error.detail), "details": []}, error.status_code)
        respond.headers.update(error.headers or {})
        return respond
    return as_json({"error": str(error), "details": []}, 404 if isinstance(error, NotFound) else 422)
