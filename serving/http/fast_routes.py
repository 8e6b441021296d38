"""A FastAPI application that finds the routes with one JSON body by method and path, before FastAPI's router.

FastAPI describes these routes and could serve them too, but what runs before its endpoints (middleware, routers tried
in turn, two exit stacks per request) costs several times as much as a response. Bodies, errors and responses are the
same on both ways, because the same functions make them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import cached_property
from inspect import iscoroutinefunction
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from contracts.errors import BadArgument, NotFound
from serving.http.compute_pool import ComputePool
from serving.http.messages import QUIET, RELEASE, Message, Receive
from serving.http.problems import CONTENT_TYPE, INTERNAL_ERROR, problem
from serving.http.representation import VARY, etag
from serving.schema import BODY_ERRORS, ERROR_DESCRIPTIONS, RENAMED_FIELDS

# Invalid fields that a response lists, and invalid fields above which a body is refused without listing any: describing
# every field of a body of 2 MB takes a quarter of a second, during which nothing else is answered.
SHOWN_ERRORS, MAX_ERRORS = 20, 1_000
COMPUTE = ComputePool()
HANDLED_ERRORS = (RequestValidationError, HTTPException, BadArgument)


class PrebuiltJsonResponse(Response):
    """A JSON response with precomputed headers."""

    def __init__(
        self, body: bytes, status: int, release: str | None, content_type: bytes = b"application/json"
    ) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", content_type)]
        if release is not None:
            self.raw_headers.append((RELEASE, release.encode()))


def as_json(data: Any, status: int = 200, release: str | None = None) -> Response:
    """Return a JSON response that names its release in a header."""
    return PrebuiltJsonResponse(orjson.dumps(data), status, release)


def as_resource(data: Any, release: str) -> Response:
    """Return a JSON response of a GET resource that changes with the release only: it has an entity tag."""
    response = as_json(data, release=release)
    response.raw_headers += resource_headers(bytes(response.body))
    return response


def resource_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers with which clients keep a response and ask whether it is still the same."""
    return [(b"etag", etag(body)), (b"cache-control", b"private, no-cache"), VARY]


def as_problem(status: int, detail: str, code: str = "", details: Sequence[dict[str, str]] = ()) -> Response:
    """Return an error response (serving/http/problems.py)."""
    return PrebuiltJsonResponse(problem(status, detail, code, details), status, None, CONTENT_TYPE)


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
        return endpoint if iscoroutinefunction(endpoint) else lambda parsed: COMPUTE.run(endpoint, parsed)

    async def respond(self, scope: Message, receive: Receive) -> Response:
        """Return the response to one request.

        Raises:
            HTTPException: 415 if the content type is not JSON; 503 if too many requests wait.
            RequestValidationError: the body does not match its model.
        """
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if content_type.partition(b";")[0].strip().lower() != b"application/json":
            raise HTTPException(415, "the header content-type must be application/json")
        body = await read_body(receive)
        try:
            parsed = self.model.model_validate_json(body)
        except ValidationError as error:
            if error.error_count() > MAX_ERRORS:
                message = f"more than {MAX_ERRORS} fields are invalid; they are not listed"
                raise RequestValidationError([{"type": "too_many", "loc": ("body",), "msg": message}]) from None
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
        self.add_exception_handler(Exception, handle_failure)

    def include_fast_routes(self, router: APIRouter) -> None:
        """Include a router all of whose routes take one JSON body, and add them to the lookup table."""
        self.include_router(router)
        for route in router.routes:
            assert isinstance(route, JsonBodyRoute)
            self._routes_by_path |= {(method, route.path): route for method in route.methods or ()}

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document: every operation with the errors that every request can get."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    _describe_errors(operation, path, method == "post")
            self.openapi_schema = document
        return self.openapi_schema

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


def _describe_errors(operation: dict[str, Any], path: str, has_body: bool) -> None:
    """Complete the error responses of an operation in an OpenAPI document."""
    responses = operation["responses"]
    statuses = {500, *(BODY_ERRORS if has_body else ()), *(() if path in QUIET else (401, 503))}
    statuses |= {401} if path == "/metrics" else set()
    statuses |= {404} if "{" in path else set()  # an id with a line break is no part of a path
    for status in statuses:
        responses.setdefault(str(status), {"description": ERROR_DESCRIPTIONS[status]})
    for status, response in responses.items():
        if int(status) >= 400 and not (path == "/readyz" and status == "503"):
            response["content"] = {CONTENT_TYPE.decode(): {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in sorted(responses):
        responses[status] = responses.pop(status)


async def handle_refusal(_: Request, error: Exception) -> Response:
    """Exception handler that returns `error_response`."""
    return error_response(error)


async def handle_failure(_: Request, error: Exception) -> Response:
    """Exception handler for everything else. The error is raised again, and the middleware logs it."""
    return as_problem(500, INTERNAL_ERROR)


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
            return as_problem(400, "the body is not JSON")
        details = [
            {"field": ".".join(str(part)[:80] for part in item["loc"]), "message": message_of(item)}
            for item in errors[:SHOWN_ERRORS]
        ]
        n = len(errors)
        return as_problem(422, f"{n} fields are invalid" if n != 1 else "1 field is invalid", details=details)
    if isinstance(error, HTTPException):
        response = as_problem(error.status_code, str(error.detail), getattr(error, "code", ""))
        response.headers.update(error.headers or {})
        return response
    if isinstance(error, NotFound):
        return as_problem(404, str(error), "unknown_entity")
    return as_problem(422, str(error))
