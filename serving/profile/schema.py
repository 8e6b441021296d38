"""Request and response bodies of the routes of events."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema, model_validator

from contracts.demographics import MAX_AGE, MIN_AGE
from serving.body_models import Body, RequestBody
from serving.schema import Country, Id

MAX_EVENTS = 500
MAX_EVENT_ID = 100
EVENT_ID_PATTERN = r"^[A-Za-z0-9._:~-]{1,100}$"
MAX_TEXT = 200
PAYLOAD_EXAMPLE: dict[str, JsonValue] = {
    "event_id": "0192f3c1-7b1e-7c3a-9f5e-3c1d2b4a5f60",
    "user_id": "1",
    "ts": "2026-11-23T18:04:05Z",
    "kind": "stream",
    "id": "1003",
    "seconds": 187,
}


def _is_text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("write ISO 8601 with a time zone, such as 2026-11-23T18:04:05Z")
    return value


def _no_spaces(value: Any) -> Any:
    if isinstance(value, str) and value != value.strip():
        raise ValueError("has spaces around it")
    return value


EventId = Annotated[str, Field(strict=True, pattern=EVENT_ID_PATTERN)]
Moment = Annotated[AwareDatetime, BeforeValidator(_is_text)]
EntityKind = Literal["track", "artist", "album", "playlist"]
Text = Annotated[str, Field(strict=True, max_length=MAX_TEXT)]


class ListenerFacts(RequestBody):
    """What is known about a listener. Of several events the latest that contains a fact counts."""

    country: Country | None = Field(None, description="Country code.")
    age: Annotated[int, Field(strict=True, ge=MIN_AGE, le=MAX_AGE)] | None = Field(None, description="Age in years.")
    registered_at: Moment | None = Field(
        None, description="Time of the registration. Earlier events are not part of the first day."
    )


class Event(RequestBody):
    """An event of a listener."""

    event_id: EventId = Field(
        description="The client's id of the event, such as a UUID; the same when it is sent again."
    )
    user_id: Annotated[Id, BeforeValidator(_no_spaces)] = Field(description="User id.")
    ts: Moment = Field(
        description="Time of the event, ISO 8601 with a time zone. At most five minutes in the future (a wrong clock): "
        "it becomes the time of arrival."
    )
    kind: Literal["stream", "skip", "ban", "favourite", "search", "onboarding"] = Field(
        description="A skip is an event of its own, not a short stream."
    )
    entity: EntityKind = Field("track", description="Kind of the entity. Streams and skips are of tracks.")
    id: Annotated[Id, BeforeValidator(_no_spaces)] = Field(description="Id of the entity.")
    seconds: Annotated[int, Field(strict=True, ge=0, le=86_400)] | None = Field(
        None, description="Played time of a stream or a skip, in seconds."
    )
    platform: Text | None = Field(None, description="Device or application of the listener.")
    context: Text | None = Field(None, description="Where the track was played from, such as a playlist.")
    listener: ListenerFacts | None = Field(None, description="Facts about the listener.")

    @model_validator(mode="after")
    def _is_possible(self) -> Event:
        if self.kind in ("stream", "skip") and self.entity != "track":
            raise ValueError(f"a {self.kind} is of a track, not of a {self.entity}")
        if self.kind == "ban" and self.entity == "playlist":
            raise ValueError("a playlist cannot be banned")
        if self.seconds is not None and self.kind not in ("stream", "skip"):
            raise ValueError("seconds: only streams and skips have a played time")
        return self


def _event_schema() -> dict[str, Any]:
    schema = Event.model_json_schema()
    facts = schema.pop("$defs", {}).get("ListenerFacts", {})
    schema["properties"]["listener"]["anyOf"][0] = facts
    return schema


class EventsRequest(RequestBody):
    """Events of one or several listeners. Each is accepted or refused by itself."""

    # Validated one by one (serving/profile/routes.py), so that a wrong event does not affect the others.
    events: Annotated[
        list[Any],
        Field(min_length=1, max_length=MAX_EVENTS),
        WithJsonSchema({"type": "array", "minItems": 1, "maxItems": MAX_EVENTS, "items": _event_schema()}),
    ] = Field(description="Events, in any order.")

    model_config = ConfigDict(json_schema_extra={"example": {"events": [dict(PAYLOAD_EXAMPLE)]}})


class EventResult(Body):
    """What became of an event."""

    event_id: str | None = Field(description="As the request contains it; null if it has none.")
    status: Literal["accepted", "repeated", "refused"] = Field(
        description="repeated: an event with this id was accepted before."
    )
    code: Literal["invalid", "future", "too_old", "forgotten", "full"] | None = Field(
        description="Reason of a refusal: a field is wrong; the time is in the future, or longer ago than a profile "
        "lasts; the listener's day was forgotten after the event; the profile is full."
    )
    message: str | None = Field(description="The reason in words, with the field.")
    unknown: bool = Field(description="Whether the release in service does not contain the entity. The event is kept.")


class EventResults(Body):
    """What became of the events, in the order of the request."""

    accepted: int
    repeated: int
    refused: int
    events: list[EventResult]


class RememberedEvent(Body):
    """An event of the listener's day."""

    event_id: str
    ts: str
    kind: str
    entity: str
    id: str
    seconds: int | None
    platform: str | None
    context: str | None


class Day(Body):
    """The listener's day as the service remembers it."""

    user_id: str
    country: str | None
    age: int | None
    registered_at: str | None
    events: list[RememberedEvent] = Field(description="Events in the order of time.")


class Removed(Body):
    """The number of events that were removed."""

    user_id: str
    removed: int


class MergeRequest(RequestBody):
    """The account to which a guest's day is moved."""

    model_config = ConfigDict(json_schema_extra={"example": {"into": "1"}})

    into: Annotated[Id, BeforeValidator(_no_spaces)] = Field(description="User id of the account.")


class Merged(Body):
    """The number of events that were moved."""

    user_id: str
    into: str
    moved: int
