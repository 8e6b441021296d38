"""The block list over HTTP: GET, POST and DELETE /v1/admin/block; the middleware checks `service.admin_key`.

An edit goes where `overture block` writes: to the store where it is a server, else to the file. This process applies it
before it responds; other processes within `service.block_poll_s`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field

from contracts.errors import BadArgument, OvertureError
from serving import schema
from serving.block.entries import EVERYWHERE, MAX_REASON_LENGTH, BlockKind, Change, Key, added, make_entry, removed
from serving.block.sources import BlockSource
from serving.block.watcher import BlockWatcher
from serving.body_models import Body, RequestBody
from serving.http.problems import Refusal
from serving.schema import Country, Id

MAX_ENTRIES = 10_000
ERRORS = schema.error_responses(
    {401: None, 403: "service.admin_key is not set", 422: None, 503: "the list cannot be read or written"}
)


class Entry(RequestBody):
    """A track, artist or album to block."""

    kind: BlockKind
    id: Id = Field(description="External id.")
    countries: Annotated[list[Country], Field(max_length=300)] = Field(
        default_factory=list, description="Countries where it is blocked; empty: everywhere."
    )
    reason: Annotated[str, Field(max_length=MAX_REASON_LENGTH)] = Field(
        "", description="Free text; it is not shown to listeners."
    )


class AddRequest(RequestBody):
    """Entries to add to the block list."""

    entries: Annotated[list[Entry], Field(min_length=1, max_length=MAX_ENTRIES)]


class BlockedEntry(Body):
    """An entry of the block list."""

    kind: BlockKind
    id: str
    countries: list[str]
    reason: str
    at: str = Field(description="Time of the entry, ISO 8601.")


class BlockedEntries(Body):
    """The edited block list. Entries of the other sources are in /readyz and the metrics as numbers."""

    source: str = Field(description="Where the list is: the name of the file, or the store.")
    total: int = Field(description="Number of entries.")
    entries: list[BlockedEntry]


class BlockChange(Body):
    """The result of an edit."""

    source: str = Field(description="Where the list is: the name of the file, or the store.")
    changed: int = Field(description="Number of entries that were added, extended or removed.")
    unchanged: int = Field(description="Number of entries of the request that changed nothing.")


def make_router(source: Callable[[], BlockSource], blocks: BlockWatcher, respond: Callable[..., Response]) -> APIRouter:
    """Return the routes of the block list.

    Args:
        source: opens the list to edit.
        blocks: the list in force, which is read again after an edit.
        respond: builds a JSON response.
    """

    def edit(keys: list[Key], change: Change) -> Response:
        keys = list(dict.fromkeys(keys))
        try:
            with closing(source()) as edited:
                n_changed = edited.edit(keys, change)
        except BadArgument:
            raise
        except (OvertureError, OSError) as error:
            raise Refusal(503, f"the block list cannot be written: {reason(error)}", "store_unavailable") from None
        blocks.refresh()
        return respond({"source": edited.name, "changed": n_changed, "unchanged": len(keys) - n_changed})

    router = APIRouter(tags=["admin"])

    @router.get("/v1/admin/block", responses={200: {"model": BlockedEntries}, **ERRORS})
    def entries(limit: Annotated[int, Query(ge=0, le=MAX_ENTRIES)] = 1_000) -> Response:
        """Return the first entries of the block list, and their number."""
        try:
            with closing(source()) as edited:
                blocked = edited.entries()
        except (OvertureError, OSError) as error:
            raise Refusal(503, f"the block list cannot be read: {reason(error)}", "store_unavailable") from None
        shown = [
            {
                "kind": entry.kind,
                "id": entry.id,
                "countries": sorted(entry.countries),
                "reason": entry.reason,
                "at": entry.at,
            }
            for entry in islice(blocked.values(), limit)
        ]
        return respond({"source": edited.name, "total": len(blocked), "entries": shown})

    @router.post("/v1/admin/block", responses={200: {"model": BlockChange}, **ERRORS})
    def add(request: AddRequest) -> Response:
        """Block tracks, artists and albums. What is blocked already stays blocked."""
        new = [make_entry(one.kind, str(one.id), one.countries, one.reason) for one in request.entries]
        return edit([one.key for one in new], lambda existing: added(existing, new))

    @router.delete("/v1/admin/block", responses={200: {"model": BlockChange}, **ERRORS})
    def remove(
        kind: BlockKind,
        id: Annotated[str, Query(min_length=1, max_length=schema.MAX_ID_LENGTH, description="external id")],
        country: Annotated[list[Country], Query(description="unblock it in this country only; can be repeated")] = [],  # noqa: B006 - FastAPI copies it
    ) -> Response:
        """Remove an entry, or some of its countries, from the block list."""
        countries = frozenset(country) or EVERYWHERE
        return edit([(kind, id)], lambda existing: removed(existing, [(kind, id)], countries))

    return router


def reason(error: Exception) -> str:
    """Return the reason without paths of this machine."""
    return (
        str(error) if isinstance(error, OvertureError) else str(getattr(error, "strerror", "") or type(error).__name__)
    )
