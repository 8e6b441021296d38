"""Routes of events: send them, see a listener's day, undo one, forget the day, merge a guest into an account."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError

from serving import schema as api
from serving.http.fast_routes import JsonBodyRoute
from serving.http.problems import Refusal, overloaded
from serving.profile import schema
from serving.profile.days import NewEvent, Outcome, facts_of
from serving.profile.group_commit import QueueFull
from serving.profile.lines import LEVEL, iso, micros
from serving.profile.profiles import UNAVAILABLE, Profiles
from serving.release.loaded import LoadedRelease
from serving.release.watcher import ChampionWatcher

MAX_SKEW_US = 5 * 60 * 1_000_000
EVENT = TypeAdapter(schema.Event)
LOG_KIND = {"favourite": "favorite"}
API_KIND = {log_kind: kind for kind, log_kind in LOG_KIND.items()}
UserId = Annotated[str, Path(min_length=1, max_length=api.MAX_ID_LENGTH, examples=["1"])]
EventId = Annotated[str, Path(pattern=schema.EVENT_ID_PATTERN, examples=["0192f3c1-7b1e-7c3a-9f5e-3c1d2b4a5f60"])]
NOT_WRITTEN = "events cannot be written or read; nothing was acknowledged"
ERRORS = api.error_responses({400: None, 401: None, 413: None, 422: None, 503: NOT_WRITTEN})
USER_ERRORS = api.error_responses({401: None, 422: None, 503: NOT_WRITTEN})
EVENT_ERRORS = api.error_responses({401: None, 404: "the day does not contain the event", 422: None, 503: NOT_WRITTEN})


def make_event_router(
    champion: ChampionWatcher,
    profiles: Profiles,
    respond: Callable[..., Response],
    now: Callable[[], float] = time.time,
) -> APIRouter:
    """Return the route that receives events, which takes one JSON body.

    Args:
        champion: The watcher of the champion; events are accepted without a release, too.
        profiles: The profiles.
        respond: Builds a JSON response.
        now: The clock, in seconds since 1970.
    """
    router = APIRouter(route_class=JsonBodyRoute, tags=["events"])

    @router.post("/v1/events", responses={200: {"model": schema.EventResults}, **ERRORS})
    async def events(request: schema.EventsRequest) -> Response:
        """Add events to the listeners' days. The response is sent when they are on the disk and in the store.

        Each event is accepted or refused by itself. After a 503 or without a response, send the same events again:
        an event id counts once.
        """
        loaded, now_us = champion.current, int(now() * 1e6)
        checked = [read_event(loaded, one, now_us, profiles.ttl_s) for one in request.events]
        good = [one for one in checked if isinstance(one, NewEvent)]
        try:
            written = iter(await profiles.commit.add(good) if good else ())
        except QueueFull:
            raise overloaded("too many events wait to be written") from None
        except UNAVAILABLE as error:
            raise Refusal(503, str(error), "store_unavailable") from None
        results = [
            result_body(loaded, raw, one, next(written) if isinstance(one, NewEvent) else one)
            for raw, one in zip(request.events, checked, strict=True)
        ]
        counts = {status: 0 for status in ("accepted", "repeated", "refused")}
        for result in results:
            counts[result["status"]] += 1
        return respond({**counts, "events": results})

    return router


def make_day_router(profiles: Profiles, respond: Callable[..., Response]) -> APIRouter:
    """Return the routes of one listener's day.

    Args:
        profiles: The profiles.
        respond: Builds a JSON response.
    """
    router = APIRouter(tags=["events"])

    async def change(work: Callable[[], int]) -> int:
        try:
            return await profiles.commit.alone(work)
        except UNAVAILABLE as error:
            raise Refusal(503, str(error), "store_unavailable") from None

    # An id may contain slashes, so these routes must be found before /v1/users/{user_id}.
    @router.get("/v1/users/{user_id:path}/events", responses={200: {"model": schema.Day}, **USER_ERRORS})
    def day(user_id: UserId) -> Response:
        """Return the events that the service remembers of a listener. A listener without events has an empty day."""
        try:
            events = profiles.call(lambda days: days.events(user_id))
        except UNAVAILABLE as error:
            raise Refusal(503, str(error), "store_unavailable") from None
        shown = [
            {
                "event_id": event["event_id"],
                "ts": event["ts"],
                "kind": API_KIND.get(event["kind"], event["kind"]),
                "entity": event["entity"],
                "id": event["entity_id"],
                "seconds": event["listened_s"],
                "platform": event["platform"],
                "context": event["context"],
            }
            for event in events
        ]
        return respond({"user_id": user_id, **facts_of(events), "events": shown})

    @router.delete(
        "/v1/users/{user_id:path}/events/{event_id}", responses={200: {"model": schema.Removed}, **EVENT_ERRORS}
    )
    async def undo(user_id: UserId, event_id: EventId) -> Response:
        """Remove one event. It stays removed when it is sent again, and is not ingested."""
        n = await change(lambda: profiles.call(lambda days: days.undo(user_id, event_id)))
        return respond({"user_id": user_id, "removed": n})

    @router.delete("/v1/users/{user_id:path}/events", responses={200: {"model": schema.Removed}, **USER_ERRORS})
    async def forget(user_id: UserId) -> Response:
        """Forget the listener's day: remove all events up to now, also from what is ingested later."""
        n = await change(lambda: profiles.call(lambda days: days.forget(user_id)))
        return respond({"user_id": user_id, "removed": n})

    @router.post("/v1/users/{user_id:path}/merge", responses={200: {"model": schema.Merged}, **ERRORS})
    async def merge(user_id: UserId, request: schema.MergeRequest) -> Response:
        """Move a guest's day to the account. Events of the guest up to now that arrive later follow."""
        into = str(request.into)
        n = await change(lambda: profiles.call(lambda days: days.merge(user_id, into)))
        return respond({"user_id": user_id, "into": into, "moved": n})

    return router


def read_event(loaded: LoadedRelease | None, raw: Any, now_us: int, ttl_s: float) -> NewEvent | Outcome:
    """Return a valid event, or the reason why it is refused.

    Args:
        loaded: The release in service, which knows the form of the ids; None if there is none.
        raw: The event of the request.
        now_us: Time of arrival, in microseconds since 1970.
        ttl_s: How long a profile lasts, in seconds; older events are refused.
    """
    try:
        event = EVENT.validate_python(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part)[:80] for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        return Outcome("refused", "invalid", f"{field}: {message}" if field else message)
    if loaded is not None:
        for field, kind, value in (("user_id", "user", event.user_id), ("id", event.entity, event.id)):
            if loaded.ids.forms[kind] == "text" and isinstance(value, int):
                return Outcome("refused", "invalid", f"{field}: the {kind} ids of this release are strings")
            if loaded.ids.inside(kind, value) is None:
                return Outcome("refused", "invalid", f"{field}: the {kind} ids of this release are integers")
    ts_us = micros(event.ts)
    if ts_us > now_us + MAX_SKEW_US:
        return Outcome("refused", "future", f"ts: more than {MAX_SKEW_US // 60_000_000} minutes in the future")
    if ts_us < now_us - ttl_s * 1e6:
        return Outcome("refused", "too_old", f"ts: more than {ttl_s / 3600:g} hours ago (setting profile.ttl_s)")
    ts_us = min(ts_us, now_us)
    facts = event.listener
    registered_at = facts.registered_at if facts else None
    record = {
        "event_id": event.event_id,
        "user_id": str(event.user_id),
        "ts": iso(ts_us),
        "kind": LOG_KIND.get(event.kind, event.kind),
        "entity": event.entity,
        "entity_id": str(event.id),
        "listened_s": event.seconds,
        "platform": event.platform,
        "context": event.context,
        "country": facts.country if facts else None,
        "age": facts.age if facts else None,
        "registered_at": iso(micros(registered_at)) if registered_at else None,
        "received_at": iso(now_us),
    }
    return NewEvent(str(event.user_id), event.event_id, ts_us, record)


def result_body(loaded: LoadedRelease | None, raw: Any, event: NewEvent | Outcome, outcome: Outcome) -> dict[str, Any]:
    """Return the result of one event as schema.EventResult."""
    event_id = raw.get("event_id") if isinstance(raw, dict) else None
    unknown = False
    if loaded is not None and isinstance(event, NewEvent):
        entity = event.record["entity"]
        unknown = loaded.ids.inside(entity, event.record["entity_id"]) not in loaded.known_ids[LEVEL[entity]]
    return {
        "event_id": event_id[: schema.MAX_EVENT_ID] if isinstance(event_id, str) else None,
        "status": outcome.status,
        "code": outcome.code,
        "message": outcome.message,
        "unknown": unknown,
    }
