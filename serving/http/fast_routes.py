"""The application, with a short way to the routes that take one JSON body: a look-up by method and path.

FastAPI describes these routes and would answer them too, but what stands before its endpoints (middlewares, a list of
routers tried in turn, two exit stacks a request) costs several times what an answer does. Body, refusals and answers
are the same on both ways: the same functions make them.
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

SHOWN_ERRORS = 20
REFUSED = (RequestValidationError, HTTPException, BadArgument)


class Json(Response):
    """An answer as JSON; its headers are written out, not worked out."""

    def __init__(self, body: bytes, status: int, release: str | None) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        if release is not None:
            self.raw_headers.append((RELEASE, release.encode()))


def as_json(data: Any, status: int = 200, release: str | None = None) -> Response:
    """An answer as JSON, and the release that gave it."""
    return Json(orjson.dumps(data), status, release)


class WholeBody(APIRoute):
    """A route whose one argument is its body, read and validated in one pass."""

    @cached_property
    def model(self) -> type[BaseModel]:
        """What the body must be."""
        (field,) = self.dependant.body_params
        model = field.field_info.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        return model

    @cached_property
    def ask(self) -> Callable[[Any], Awaitable[Response]]:
        """The endpoint: in its own time where it is a coroutine, else in a thread."""
        endpoint = self.endpoint
        return endpoint if iscoroutinefunction(endpoint) else lambda asked: run_in_threadpool(endpoint, asked)

    async def answer(self, scope: Message, receive: Receive) -> Response:
        """The answer to one request.

        Raises:
            HTTPException: 415 for a body that does not say that it is JSON.
            RequestValidationError: for what the body's model refuses.
        """
        said = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if said.partition(b";")[0].strip().lower() != b"application/json":
            raise HTTPException(415, "the header content-type must be application/json")
        body = await whole(receive)
        try:
            asked = self.model.model_validate_json(body)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None
        return await self.ask(asked)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What FastAPI asks."""

        async def answer(request: Request) -> Response:
            return await self.answer(request.scope, request.receive)

        return answer


async def whole(receive: Receive) -> bytes:
    """A request's body.

    Raises:
        ClientDisconnect: the client went away before it was whole.
    """
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


class Front(FastAPI):
    """FastAPI behind a look-up."""

    def __init__(self, **about: Any) -> None:
        """`about` as FastAPI takes it."""
        super().__init__(**about)
        self._straight: dict[tuple[str, str], WholeBody] = {}
        for kind in REFUSED:
            self.add_exception_handler(kind, refused)

    def straight(self, router: APIRouter) -> None:
        """Include a router all of whose routes take one JSON body."""
        self.include_router(router)
        for route in router.routes:
            assert isinstance(route, WholeBody)
            self._straight |= {(method, route.path): route for method in route.methods or ()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, or the life of the whole."""
        route = self._straight.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await super().__call__(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await route.answer(scope, receive)
        except REFUSED as error:
            response = refusal(error)
        await response(scope, receive, send)


async def refused(_: Request, error: Exception) -> Response:
    """`refusal` as FastAPI asks for it."""
    return refusal(error)


def refusal(error: Exception) -> Response:
    """What was wrong, by field; never what was sent."""
    if isinstance(error, RequestValidationError):
        found = error.errors()
        if any(one["type"] == "json_invalid" for one in found):
            return as_json({"error": "the body is not JSON", "details": []}, 400)
        details = [
            {"field": ".".join(str(part)[:80] for part in one["loc"]), "message": str(one["msg"])}
            for one in found[:SHOWN_ERRORS]
        ]
        return as_json({"error": f"{len(found)} fields were refused", "details": details}, 422)
    if isinstance(error, HTTPException):
        answer = as_json({"error": str(error.detail), "details": []}, error.status_code)
        answer.headers.update(error.headers or {})
        return answer
    return as_json({"error": str(error), "details": []}, 404 if isinstance(error, NotFound) else 422)
